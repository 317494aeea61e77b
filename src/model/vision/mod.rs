//! From pixels to visual tokens: one tower per family behind one face.
//!
//! Invariant: an image's features do not depend on the images beside it. Features of further depths travel behind the
//! visual tokens in the same rows, so that one tensor per image is cached, repeated and selected.
//! Deliberately absent: video; an image stands still for the frames that a patch has.

mod connector;
mod qwen;
mod qwen2_5;
mod qwen3;
mod siglip;

use tch::{Device, Kind, Tensor};

use super::config::{Config, VisionConfig};
use super::layout::Spec;
use super::lora::Parts;
use super::{Cut, Pixels};
use connector::Connector;

/// An image as the decoder is given it.
#[derive(Debug)]
pub struct Visual {
    /// Visual tokens with the features of further depths behind them, `[n, (1 + levels) * D]`.
    pub features: Tensor,
    /// How the image was cut.
    pub cut: Cut,
}

impl Clone for Visual {
    /// Shares the tensor, which is never written in place.
    fn clone(&self) -> Self {
        Self { features: self.features.shallow_clone(), cut: self.cut }
    }
}

/// Tower and connector of a family.
#[derive(Debug)]
pub(crate) enum Eyes {
    Siglip(siglip::Tower, Connector),
    Qwen2_5(qwen2_5::Tower),
    Qwen3(qwen3::Tower),
}

impl Eyes {
    pub fn assemble(config: &Config, parts: &Parts) -> Self {
        match &config.vision {
            VisionConfig::Siglip(v) => {
                Self::Siglip(siglip::Tower::assemble(v, parts), Connector::assemble(config, parts))
            }
            VisionConfig::Qwen2_5(v) => Self::Qwen2_5(qwen2_5::Tower::assemble(v, parts)),
            VisionConfig::Qwen3(v) => Self::Qwen3(qwen3::Tower::assemble(v, parts)),
        }
    }

    /// Features `[n, (1 + levels) * D]` of each image, in order; images of one cut go through the tower together.
    ///
    /// `trace`, if given, receives what enters the tower's first block and each block's output.
    pub fn see(
        &self,
        images: &[&Pixels],
        (device, kind): (Device, Kind),
        mut trace: Option<&mut Vec<Tensor>>,
    ) -> Vec<Tensor> {
        let mut seen: Vec<Option<Tensor>> = images.iter().map(|_| None).collect();
        for group in alike(images, matches!(self, Self::Siglip(..))) {
            let parts: Vec<Tensor> = group.iter().map(|&at| images[at].tensor()).collect();
            // Patches of a grid are few numbers each: they stay one row per image.
            let parts = match self {
                Self::Siglip(..) => Tensor::cat(&parts, 0),
                Self::Qwen2_5(_) | Self::Qwen3(_) => Tensor::stack(&parts, 0),
            };
            let parts = parts.to_device(device).to_kind(kind);
            let cut = images[group[0]].cut;
            let features = match self {
                Self::Siglip(tower, connector) => {
                    connector.forward(&tower.forward(&parts, trace.as_deref_mut()))
                }
                Self::Qwen2_5(tower) => tower.forward(&parts, cut, trace.as_deref_mut()),
                Self::Qwen3(tower) => tower.forward(&parts, cut, trace.as_deref_mut()),
            };
            let width = features.size()[2];
            let mut from = 0;
            for &at in &group {
                let rows = match self {
                    Self::Siglip(..) => images[at].cut.tiles() as i64,
                    Self::Qwen2_5(_) | Self::Qwen3(_) => 1,
                };
                seen[at] = Some(features.narrow(0, from, rows).reshape([-1, width]));
                from += rows;
            }
        }
        // Every image is in exactly one group.
        seen.into_iter().flatten().collect()
    }

    /// Tiles `[N, 3, H, W]` -> visual tokens `[N, n, D]`. Panics for a family that sees grids of patches.
    pub fn tiles(&self, pixels: &Tensor, trace: Option<&mut Vec<Tensor>>) -> Tensor {
        match self {
            Self::Siglip(tower, connector) => connector.forward(&tower.forward(pixels, trace)),
            Self::Qwen2_5(_) | Self::Qwen3(_) => panic!("tiles are what a SmolVLM sees"),
        }
    }
}

/// Places of images that may share a pass: all tiles, or grids of one size.
fn alike(images: &[&Pixels], tiles: bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for (at, image) in images.iter().enumerate() {
        match groups.iter_mut().find(|group| tiles || images[group[0]].cut == image.cut) {
            Some(group) => group.push(at),
            None => groups.push(vec![at]),
        }
    }
    groups
}

/// Every tensor between the pixels and the decoder.
pub(crate) fn specs(config: &Config) -> Vec<Spec> {
    match &config.vision {
        VisionConfig::Siglip(v) => {
            let mut all = siglip::specs(v);
            all.push(connector::spec(config, v));
            all
        }
        VisionConfig::Qwen2_5(v) => qwen2_5::specs(v),
        VisionConfig::Qwen3(v) => qwen3::specs(v),
    }
}
