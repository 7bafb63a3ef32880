/** The stochastic updates of DPM-Solver (`dpmpp-2m-sde`): the same multistep slopes, an ancestral noise term. */
import { combine, type Term } from '../linear-combination.ts';
import type { SchedulerOptions } from '../scheduler-options.ts';
import type { Differences, LambdaLevel } from './log-snr.ts';

/**
 *   data:   x' = σ'/σ e^−h · x + α'(1 − e^−2h) D0 + c₁ D1 + c₂ D2 + σ' √(1 − e^−2h) · noise
 *           c₁ = α'/2 (1 − e^−2h)                         midpoint
 *           c₁ = α'((1 − e^−2h)/(−2h) + 1)                heun, and order 3
 *           c₂ = α'((1 − e^−2h − 2h)/(2h)² − ½)           order 3
 *   noise:  x' = α'/α · x − 2σ'(e^h − 1) D0 − c₁ D1 + σ' √(e^2h − 1) · noise
 *           c₁ = σ'(e^h − 1), or 2σ'((e^h − 1)/h − 1)     midpoint, heun
 *
 * Source: Lu et al. 2022 (2211.01095), appendix; numbers as diffusers `scheduling_dpmsolver_multistep.py`.
 */
export function sdeUpdate(
  latents: Float32Array,
  { d0, d1, d2 }: Differences,
  s: LambdaLevel,
  t: LambdaLevel,
  predictsData: boolean,
  solverType: SchedulerOptions['solverType'],
  noise: Float32Array,
): Float32Array {
  const h = t.lambda - s.lambda;
  const midpoint = solverType === 'midpoint' && d2 === null;
  const terms: Term[] = [];
  if (predictsData) {
    const decay = -Math.expm1(-2 * h);
    terms.push([(t.noise / s.noise) * Math.exp(-h), latents], [t.signal * decay, d0]);
    if (d1 !== null) terms.push([t.signal * (midpoint ? 0.5 * decay : decay / (-2 * h) + 1), d1]);
    if (d2 !== null) terms.push([t.signal * ((decay - 2 * h) / (2 * h) ** 2 - 0.5), d2]);
    terms.push([t.noise * Math.sqrt(decay), noise]);
  } else {
    const growth = Math.expm1(h);
    terms.push([t.signal / s.signal, latents], [-2 * t.noise * growth, d0]);
    if (d1 !== null) terms.push([-t.noise * (midpoint ? growth : 2 * (growth / h - 1)), d1]);
    terms.push([t.noise * Math.sqrt(Math.expm1(2 * h)), noise]);
  }
  return combine(...terms);
}
