//! The bridge from patches to visual tokens: pixel shuffle, then one linear map.
//!
//! Source: `SmolVLMConnector` of transformers. Deliberately absent: a perceiver or any learned resampling.

use tch::Tensor;

use crate::model::config::{Config, SiglipConfig};
use crate::model::layout::{CONNECTOR, Spec, Start};
use crate::model::lora::{Linear, Parts};

/// Pixel shuffle and modality projection.
#[derive(Debug)]
pub(crate) struct Connector {
    scale: i64,
    proj: Linear,
}

impl Connector {
    pub fn assemble(config: &Config, parts: &Parts) -> Self {
        let proj = parts.linear(&format!("{CONNECTOR}modality_projection.proj"));
        Self { scale: config.scale_factor, proj }
    }

    /// Patches `[N, side * side, D_vision]` -> visual tokens `[N, (side / scale)^2, D_text]`.
    pub fn forward(&self, patches: &Tensor) -> Tensor {
        self.proj.forward(&shuffle(patches, self.scale))
    }
}

/// The connector's tensor.
pub(crate) fn spec(config: &Config, v: &SiglipConfig) -> Spec {
    let (width, folded) = (config.text.hidden_size, v.hidden_size * config.scale_factor.pow(2));
    let std = Start::Normal(config.text.initializer_range);
    Spec::new(format!("{CONNECTOR}modality_projection.proj.weight"), &[width, folded], std)
}

/// Folds each `scale x scale` square of patches into the channels: row within the square first, then column.
fn shuffle(x: &Tensor, scale: i64) -> Tensor {
    let (n, seq, d) = (x.size()[0], x.size()[1], x.size()[2]);
    let side = (seq as f64).sqrt() as i64;
    let out = side / scale;
    x.view([n, out, scale, out, scale, d]).permute([0, 1, 3, 2, 4, 5]).reshape([
        n,
        out * out,
        scale * scale * d,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_of_patches_becomes_one_token_in_row_order() {
        // Patches numbered 0..16 on a 4x4 grid: token 0 folds the upper left square 0 1 / 4 5.
        let x = Tensor::arange(16, (tch::Kind::Float, tch::Device::Cpu)).view([1, 16, 1]);
        let tokens: Vec<Vec<f32>> = Vec::try_from(shuffle(&x, 2).squeeze_dim(0)).expect("two dimensions");
        assert_eq!(tokens[0], [0.0, 1.0, 4.0, 5.0]);
        assert_eq!(tokens[1], [2.0, 3.0, 6.0, 7.0]);
        assert_eq!(tokens[2], [8.0, 9.0, 12.0, 13.0]);
    }
}
