//! Resampling of 8-bit RGB images, bit for bit as Pillow does it.
//!
//! Invariant: the same bytes as `PIL.Image.resize` for the filters below: double-precision weights, rounded to 22
//! fixed-point bits; rows first, columns second, 8 bits in between. So does Pillow up to 12, with which the checkpoints
//! were made; Pillow 13 takes the columns of some pictures first.
//! Source: the description of Pillow's resampling (`src/libImaging/Resample.c`). Deliberately absent: nearest
//! neighbour and alpha, which no processor of these models uses.

use image::RgbImage;

/// A resampling filter, by Pillow's number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Filter {
    Lanczos,
    Bilinear,
    Bicubic,
    Box,
    Hamming,
}

impl Filter {
    /// From `resample` of a preprocessor configuration.
    pub fn from_number(number: i64) -> Option<Self> {
        Some(match number {
            1 => Filter::Lanczos,
            2 => Filter::Bilinear,
            3 => Filter::Bicubic,
            4 => Filter::Box,
            5 => Filter::Hamming,
            _ => return None,
        })
    }

    fn support(self) -> f64 {
        match self {
            Filter::Lanczos => 3.0,
            Filter::Bicubic => 2.0,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Box => 0.5,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| {
            if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
        };
        let a = x.abs();
        match self {
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Bilinear if a < 1.0 => 1.0 - a,
            // Keys' cubic with a = -0.5.
            Filter::Bicubic if a < 1.0 => (1.5 * a - 2.5) * a * a + 1.0,
            Filter::Bicubic if a < 2.0 => ((-0.5 * a + 2.5) * a - 4.0) * a + 2.0,
            Filter::Box if x > -0.5 && x <= 0.5 => 1.0,
            Filter::Hamming if a < 1.0 => sinc(x) * (0.54 + 0.46 * (x * std::f64::consts::PI).cos()),
            _ => 0.0,
        }
    }
}

const BITS: u32 = 22;

/// The pixels that one output pixel is mixed from, and their fixed-point weights.
struct Mix {
    start: usize,
    weights: Vec<i32>,
}

fn mixes(from: usize, to: usize, filter: Filter) -> Vec<Mix> {
    let scale = from as f64 / to as f64;
    // Shrinking widens the filter, so that every input pixel counts (antialiasing).
    let widening = scale.max(1.0);
    let support = filter.support() * widening;
    let mix = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        let start = ((centre - support + 0.5) as i64).max(0) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let raw: Vec<f64> =
            (start..end).map(|x| filter.weight((x as f64 - centre + 0.5) / widening)).collect();
        let sum: f64 = raw.iter().sum();
        let fixed = |w: &f64| {
            let scaled = if sum == 0.0 { *w } else { w / sum } * f64::from(1u32 << BITS);
            (scaled + 0.5f64.copysign(scaled)) as i32
        };
        Mix { start, weights: raw.iter().map(fixed).collect() }
    };
    (0..to).map(mix).collect()
}

/// The image at `width x height` pixels.
pub(crate) fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let wide = match image.width() == width {
        true => image.clone(),
        false => resize_rows(image, width, filter),
    };
    match wide.height() == height {
        true => wide,
        false => resize_columns(&wide, height, filter),
    }
}

fn resize_rows(image: &RgbImage, width: u32, filter: Filter) -> RgbImage {
    let mixes = mixes(image.width() as usize, width as usize, filter);
    let mut out = RgbImage::new(width, image.height());
    let stride = (image.width() * 3) as usize;
    for (row, line) in out.chunks_exact_mut((width * 3) as usize).enumerate() {
        let from = &image.as_raw()[row * stride..(row + 1) * stride];
        for (mix, pixel) in mixes.iter().zip(line.chunks_exact_mut(3)) {
            let mut sums = [1i32 << (BITS - 1); 3];
            for (weight, source) in mix.weights.iter().zip(from[mix.start * 3..].chunks_exact(3)) {
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += i32::from(value) * weight;
                }
            }
            pixel.copy_from_slice(&sums.map(clip));
        }
    }
    out
}

fn resize_columns(image: &RgbImage, height: u32, filter: Filter) -> RgbImage {
    let mixes = mixes(image.height() as usize, height as usize, filter);
    let mut out = RgbImage::new(image.width(), height);
    let stride = (image.width() * 3) as usize;
    for (mix, line) in mixes.iter().zip(out.chunks_exact_mut(stride)) {
        let mut sums = vec![1i32 << (BITS - 1); stride];
        for (weight, from) in
            mix.weights.iter().zip(image.as_raw()[mix.start * stride..].chunks_exact(stride))
        {
            for (sum, &value) in sums.iter_mut().zip(from) {
                *sum += i32::from(value) * weight;
            }
        }
        for (byte, sum) in line.iter_mut().zip(sums) {
            *byte = clip(sum);
        }
    }
    out
}

fn clip(sum: i32) -> u8 {
    (sum >> BITS).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_image_stays_even_under_every_filter() {
        let image = RgbImage::from_pixel(13, 7, image::Rgb([10, 200, 255]));
        for number in 1..=5 {
            let filter = Filter::from_number(number).expect("known");
            for (width, height) in [(5, 3), (40, 21), (13, 9)] {
                let out = resize(&image, width, height, filter);
                assert!(out.pixels().all(|p| p.0 == [10, 200, 255]), "{filter:?} {width}x{height}");
            }
        }
    }

    #[test]
    fn halving_by_box_averages_pairs() {
        let image = RgbImage::from_fn(4, 1, |x, _| image::Rgb([[10, 20, 100, 200][x as usize]; 3]));
        let out = resize(&image, 2, 1, Filter::Box);
        assert_eq!((out.get_pixel(0, 0)[0], out.get_pixel(1, 0)[0]), (15, 150));
    }
}
