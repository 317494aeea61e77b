//! From 8-bit levels to the numbers a tower takes.

use serde::Deserialize;

/// The keys of `preprocessor_config.json` about scaling.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub(super) struct Scaling {
    do_rescale: bool,
    rescale_factor: f64,
    do_normalize: bool,
    image_mean: [f64; 3],
    image_std: [f64; 3],
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            do_rescale: true,
            rescale_factor: 1.0 / 255.0,
            do_normalize: true,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }
}

/// Per channel: number = level * gain + shift.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    gain: [f32; 3],
    shift: [f32; 3],
}

impl Levels {
    pub fn new(scaling: &Scaling) -> Result<Self, String> {
        let scale = if scaling.do_rescale { scaling.rescale_factor } else { 1.0 };
        let (mean, std) = match scaling.do_normalize {
            true => (scaling.image_mean, scaling.image_std),
            false => ([0.0; 3], [1.0; 3]),
        };
        let levels = Self {
            gain: std::array::from_fn(|c| (scale / std[c]) as f32),
            shift: std::array::from_fn(|c| (-mean[c] / std[c]) as f32),
        };
        let usable = levels.gain.iter().all(|g| g.is_finite() && *g != 0.0)
            && levels.shift.iter().all(|s| s.is_finite());
        if usable { Ok(levels) } else { Err("image_std or rescale_factor is zero or not finite".to_owned()) }
    }

    /// The number that a level of a channel becomes.
    pub fn number(&self, level: u8, channel: usize) -> f32 {
        f32::from(level) * self.gain[channel] + self.shift[channel]
    }

    /// Undoes [`Levels::number`]: a value in `0.0..=1.0`.
    pub fn unit(&self, number: f32, channel: usize) -> f32 {
        (number - self.shift[channel]) / (self.gain[channel] * 255.0)
    }
}
