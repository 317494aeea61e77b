//! A picture with where an answer looks laid over it in red.

use crate::engine::AttentionMap;
use anyhow::Context as _;
use image::{DynamicImage, ImageDecoder, ImageReader, Rgb, RgbImage, metadata::Orientation};
use std::{io::Cursor, path::Path};

/// Share of the picture that is covered where attention is greatest.
const COVER: f32 = 0.75;

/// Writes the picture `bytes` with `map` over it to `path`, as PNG.
///
/// # Errors
/// When the picture cannot be decoded or the file not be written.
pub(super) fn draw(bytes: &[u8], map: &AttentionMap, path: &Path) -> anyhow::Result<()> {
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_decoder()?;
    let upright = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(upright);
    laid_over(&picture.to_rgb8(), map).save(path).with_context(|| format!("writing {}", path.display()))
}

fn laid_over(picture: &RgbImage, map: &AttentionMap) -> RgbImage {
    let most = map.weights.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let row = (y as usize * map.rows / picture.height() as usize).min(map.rows - 1);
        let column = (x as usize * map.columns / picture.width() as usize).min(map.columns - 1);
        let cover = COVER * map.weights[row * map.columns + column] / most;
        let mix = |from: u8, to: f32| (f32::from(from) * (1.0 - cover) + to * cover) as u8;
        let Rgb([r, g, b]) = *picture.get_pixel(x, y);
        Rgb([mix(r, 255.0), mix(g, 0.0), mix(b, 0.0)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cell_that_is_looked_at_most_is_the_reddest() {
        let picture = RgbImage::from_pixel(4, 2, Rgb([0, 0, 200]));
        let map = AttentionMap { rows: 1, columns: 2, weights: vec![0.25, 0.75], mass: 0.5 };
        let drawn = laid_over(&picture, &map);
        assert_eq!(drawn.get_pixel(3, 0).0, [191, 0, 50]);
        assert_eq!(drawn.get_pixel(0, 1).0, [63, 0, 150]);
    }
}
