/** The interpreter that runs what ours is compared with: `PYTHON`, with torch, diffusers or peft as its user says. */
export const PYTHON = process.env.PYTHON ?? 'python3';
