//! Draws boards: digits, coloured shapes, paper and noise on a 64 x 64 RGB canvas.
//!
//! Invariant: what is drawn for a cell stays inside its 16 x 16 pixels, so that one visual token sees all of
//! it. Deliberately absent: the choice of what to draw.

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Width and height of a board in pixels.
pub const SIDE: usize = 64;
/// Width and height of a cell in pixels.
pub const CELL: usize = 16;
/// Cells per row and per column of the lattice.
pub const LATTICE: usize = SIDE / CELL;

/// A colour, red, green, blue.
pub type Rgb = [u8; 3];

/// A picture of 64 x 64 RGB pixels, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    pixels: Vec<u8>,
}

/// How a glyph sits in its cell.
#[derive(Debug, Clone, Copy)]
pub struct Pose {
    /// Width and height in pixels.
    pub size: f32,
    /// Offset of the centre from the cell's centre, pixels.
    pub shift: [f32; 2],
    /// Rotation in radians.
    pub angle: f32,
    /// Opacity of the ink, 0 to 1.
    pub ink: f32,
}

impl Pose {
    /// A pose for a glyph of 11 to 15 pixels that stays in its cell; `wild` times the usual rotation.
    pub fn random(rng: &mut ChaCha8Rng, wild: f32) -> Self {
        let size = rng.random_range(11.0..15.0f32);
        let room = (CELL as f32 - size) / 2.0;
        let mut shift = || rng.random_range(-room..room);
        let shift = [shift(), shift()];
        let angle = rng.random_range(-0.12..0.12f32) * wild;
        Self { size, shift, angle, ink: rng.random_range(0.7..1.0) }
    }
}

/// What is drawn as a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Outline {
    Circle,
    Square,
    Triangle,
    Cross,
    Diamond,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn filled(colour: Rgb) -> Self {
        Self { pixels: colour.iter().copied().cycle().take(SIDE * SIDE * 3).collect() }
    }

    /// The bytes, `[64, 64, 3]` row by row.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The picture as PNG.
    pub fn to_png(&self) -> Vec<u8> {
        let mut png = Vec::new();
        let side = SIDE as u32;
        // Unwrap safety: writing to a Vec cannot fail, and the buffer has the declared size by construction.
        #[allow(clippy::unwrap_used)]
        PngEncoder::new(&mut png).write_image(&self.pixels, side, side, ExtendedColorType::Rgb8).unwrap();
        png
    }

    /// Covers a cell with paper, leaving a line of one pixel at its right and lower edge.
    pub fn paper(&mut self, row: usize, column: usize, colour: Rgb) {
        for y in 0..CELL - 1 {
            for x in 0..CELL - 1 {
                self.blend(column * CELL + x, row * CELL + y, colour, 1.0);
            }
        }
    }

    /// Draws an 8 x 8 glyph (grey levels 0 to 16) into a cell, bilinearly enlarged.
    pub fn glyph(&mut self, row: usize, column: usize, grey: &[u8; 64], pose: Pose, colour: Rgb) {
        self.paint(row, column, pose, colour, |u, v| {
            let (x, y) = (u * 8.0 + 3.5, v * 8.0 + 3.5);
            let (left, top) = (x.floor(), y.floor());
            let (fx, fy) = (x - left, y - top);
            let at = |dx: i32, dy: i32| {
                let (x, y) = (left as i32 + dx, top as i32 + dy);
                let inside = (0..8).contains(&x) && (0..8).contains(&y);
                if inside { f32::from(grey[(y * 8 + x) as usize]) / 16.0 } else { 0.0 }
            };
            let upper = at(0, 0) * (1.0 - fx) + at(1, 0) * fx;
            let lower = at(0, 1) * (1.0 - fx) + at(1, 1) * fx;
            upper * (1.0 - fy) + lower * fy
        });
    }

    /// Draws a filled shape into a cell.
    pub fn shape(&mut self, row: usize, column: usize, outline: Outline, pose: Pose, colour: Rgb) {
        self.paint(row, column, pose, colour, |u, v| {
            let inside = match outline {
                Outline::Circle => u * u + v * v <= 0.25,
                Outline::Square => u.abs() <= 0.45 && v.abs() <= 0.45,
                Outline::Triangle => v <= 0.5 && u.abs() <= (v + 0.5) / 2.0,
                Outline::Cross => (u.abs() <= 0.15 || v.abs() <= 0.15) && u.abs().max(v.abs()) <= 0.5,
                Outline::Diamond => u.abs() + v.abs() <= 0.5,
            };
            f32::from(u8::from(inside))
        });
    }

    /// Adds grey noise of at most `level` to every pixel.
    pub fn noise(&mut self, rng: &mut ChaCha8Rng, level: i16) {
        if level == 0 {
            return;
        }
        for pixel in self.pixels.chunks_exact_mut(3) {
            let shift = rng.random_range(-level..=level);
            for value in pixel {
                *value = (i16::from(*value) + shift).clamp(0, 255) as u8;
            }
        }
    }

    /// Hides a square of `side` pixels whose upper left corner is at `[x, y]`.
    pub fn cover(&mut self, [left, top]: [usize; 2], side: usize, colour: Rgb) {
        for y in top..(top + side).min(SIDE) {
            for x in left..(left + side).min(SIDE) {
                self.blend(x, y, colour, 1.0);
            }
        }
    }

    /// Blends `colour` over a cell by `opacity(u, v)`, u and v from -0.5 to 0.5 over the posed glyph.
    fn paint(
        &mut self,
        row: usize,
        column: usize,
        pose: Pose,
        colour: Rgb,
        opacity: impl Fn(f32, f32) -> f32,
    ) {
        let (sin, cos) = pose.angle.sin_cos();
        let centre = CELL as f32 / 2.0 - 0.5;
        for y in 0..CELL {
            for x in 0..CELL {
                let (dx, dy) = (x as f32 - centre - pose.shift[0], y as f32 - centre - pose.shift[1]);
                let (u, v) = ((dx * cos + dy * sin) / pose.size, (dy * cos - dx * sin) / pose.size);
                let alpha = opacity(u, v) * pose.ink;
                if alpha > 0.0 {
                    self.blend(column * CELL + x, row * CELL + y, colour, alpha);
                }
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, colour: Rgb, alpha: f32) {
        let start = (y * SIDE + x) * 3;
        for (value, ink) in self.pixels[start..start + 3].iter_mut().zip(colour) {
            let mixed = f32::from(*value) * (1.0 - alpha) + f32::from(ink) * alpha;
            *value = mixed.round().clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_png_decodes_to_the_drawn_pixels() {
        let mut canvas = Canvas::filled([10, 20, 30]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        canvas.shape(1, 2, Outline::Circle, Pose::random(&mut rng, 1.0), [200, 0, 0]);
        canvas.noise(&mut rng, 5);
        let decoded = image::load_from_memory(&canvas.to_png()).unwrap().to_rgb8();
        assert_eq!((decoded.width(), decoded.height()), (64, 64));
        assert_eq!(decoded.as_raw().as_slice(), canvas.pixels());
    }

    #[test]
    fn a_glyph_stays_inside_its_cell() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for _ in 0..50 {
            let mut canvas = Canvas::filled([0, 0, 0]);
            canvas.glyph(2, 1, &[16; 64], Pose::random(&mut rng, 1.0), [255, 255, 255]);
            for (index, pixel) in canvas.pixels().chunks(3).enumerate() {
                let (x, y) = (index % SIDE, index / SIDE);
                assert!(pixel == [0, 0, 0] || (x / CELL == 1 && y / CELL == 2));
            }
        }
    }
}
