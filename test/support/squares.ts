/** Square latents side by side in one row: their lines take turns. */
export function sideBySide(squares: readonly Float32Array[], side: number): Float32Array {
  const row = new Float32Array(squares.reduce((sum, square) => sum + square.length, 0));
  for (const [i, square] of squares.entries()) {
    for (let line = 0; line < square.length / side; line++) {
      row.set(square.subarray(line * side, (line + 1) * side), (line * squares.length + i) * side);
    }
  }
  return row;
}

/** One of the squares again. @param count of them in the row */
export function squareOf(row: Float32Array, index: number, count: number, side: number): Float32Array {
  const square = new Float32Array(row.length / count);
  for (let line = 0; line < square.length / side; line++) {
    const from = (line * count + index) * side;
    square.set(row.subarray(from, from + side), line * side);
  }
  return square;
}
