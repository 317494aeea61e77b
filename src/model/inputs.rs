//! Prompts with images as the decoder takes them.
//!
//! Source for positions: `get_rope_index` of transformers' Qwen2.5-VL and Qwen3-VL: text counts on along all three axes,
//! an image spreads its rows and columns over height and width, and what follows begins after its longer side.
//! Invariant: as many visual tokens as image tokens, image by image; nothing is cut or repeated to fit.

use tch::{Device, Kind, Tensor};

use super::config::Config;
use super::text::Step;
use super::{Cut, ModelError, Visual};

/// Prompts, padded on the left to one length.
#[derive(Debug)]
pub struct Inputs {
    /// `[B, T, D]`, visual tokens in their places.
    pub embeds: Tensor,
    /// int64 `[B, T]`: 1 real, 0 padding.
    pub mask: Tensor,
    /// int64 `[3, B, T]` where positions have axes.
    pub(super) positions: Option<Tensor>,
    /// int64 `[B, 1]`: how far a row's next position is from the number of its tokens.
    pub(super) shift: Option<Tensor>,
    /// `[B, T, D]` each: features of further depths at the visual tokens, zero elsewhere.
    pub(super) deep: Vec<Tensor>,
}

impl Inputs {
    /// The columns from `from` on, `count` of them; the mask stays whole up to their end, as a cache wants it.
    pub fn columns(&self, from: i64, count: i64) -> Inputs {
        Inputs {
            embeds: self.embeds.narrow(1, from, count),
            mask: self.mask.narrow(1, 0, from + count),
            positions: self.positions.as_ref().map(|t| t.narrow(2, from, count)),
            shift: self.shift.as_ref().map(Tensor::shallow_clone),
            deep: self.deep.iter().map(|t| t.narrow(1, from, count)).collect(),
        }
    }

    /// The same prompts with some tokens hidden (bool `[B, T]`) from all that follow them: what is said then is said without
    /// having seen them. Everything else stands where it stood.
    pub fn hiding(&self, hidden: &Tensor) -> Inputs {
        let hidden = hidden.to_kind(Kind::Int64) * &self.mask;
        let positions = match &self.positions {
            Some(positions) => positions.shallow_clone(),
            None => (self.mask.cumsum(1, Kind::Int64) - 1).clamp_min(0).unsqueeze(0),
        };
        let gone = hidden.sum_dim_intlist(1, true, Kind::Int64);
        Inputs {
            embeds: self.embeds.shallow_clone(),
            mask: &self.mask - hidden,
            positions: Some(positions),
            shift: Some(self.shift.as_ref().map_or_else(|| gone.shallow_clone(), |shift| shift + &gone)),
            deep: self.deep.iter().map(Tensor::shallow_clone).collect(),
        }
    }

    /// As a pass of the decoder takes them.
    pub(super) fn step(&self) -> Step<'_> {
        Step {
            embeds: &self.embeds,
            mask: &self.mask,
            positions: self.positions.as_ref(),
            sees: None,
            deep: &self.deep,
        }
    }

    /// Number of columns.
    pub fn len(&self) -> i64 {
        self.embeds.size()[1]
    }

    /// Whether there are no columns.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Positions int64 `[3, B, T]` (time, height, width) where a family has them; none where tokens are counted.
    pub fn positions(&self) -> Option<&Tensor> {
        self.positions.as_ref()
    }
}

/// What stands at the image tokens of `ids` `[B, T]`: `base` elsewhere, the rows of `features` `[n, D]` there in order.
pub(super) fn scatter(base: &Tensor, places: &Tensor, features: &Tensor) -> Tensor {
    base.masked_scatter(&places.unsqueeze(-1), &features.to_kind(base.kind()))
}

/// Errors unless the image tokens of `ids` are as many as the visual tokens `given`; says where they are.
pub(super) fn image_places(config: &Config, ids: &Tensor, given: i64) -> Result<Tensor, ModelError> {
    let places = ids.eq(config.image_token_id);
    let wanted = places.sum(Kind::Int64).int64_value(&[]);
    if wanted != given {
        return Err(ModelError::VisualTokens { wanted, given });
    }
    Ok(places)
}

/// Positions `[3, B, T]` and shifts `[B, 1]` of rows padded on the left to `width`, for a rotary with axes.
pub(super) fn positions(
    config: &Config,
    rows: &[Vec<i64>],
    visual: &[Visual],
    width: usize,
    device: Device,
) -> Result<(Tensor, Tensor), ModelError> {
    let mut images = visual.iter().map(|image| image.cut);
    let count = rows.len();
    let (mut all, mut shifts) = (vec![0i64; 3 * count * width], Vec::with_capacity(count));
    for (row, ids) in rows.iter().enumerate() {
        let (places, next) = along(config, ids, &mut images)?;
        for (axis, column) in (0..3).flat_map(|axis| (0..ids.len()).map(move |column| (axis, column))) {
            all[(axis * count + row) * width + width - ids.len() + column] = places[column][axis];
        }
        shifts.push(next - ids.len() as i64);
    }
    let positions = Tensor::from_slice(&all).view([3, count as i64, width as i64]).to_device(device);
    Ok((positions, Tensor::from_slice(&shifts).view([-1, 1]).to_device(device)))
}

/// Positions of one row's tokens, and the one after them.
fn along(
    config: &Config,
    ids: &[i64],
    images: &mut impl Iterator<Item = Cut>,
) -> Result<(Vec<[i64; 3]>, i64), ModelError> {
    let (mut places, mut next) = (Vec::with_capacity(ids.len()), 0);
    while places.len() < ids.len() {
        if ids[places.len()] != config.image_token_id {
            places.push([next; 3]);
            next += 1;
            continue;
        }
        let run = ids[places.len()..].iter().take_while(|id| **id == config.image_token_id).count() as i64;
        let (rows, columns) = images.next().map_or((0, 0), Cut::sides);
        let (rows, columns) = (rows / config.scale_factor, columns / config.scale_factor);
        if rows * columns == 0 || rows * columns > run {
            return Err(ModelError::VisualTokens { wanted: run, given: rows * columns });
        }
        for row in 0..rows {
            places.extend((0..columns).map(|column| [next, next + row, next + column]));
        }
        next += rows.max(columns);
    }
    Ok((places, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_spreads_over_height_and_width_and_text_goes_on_after_its_longer_side() {
        let config = Config::from_json(serde_json::json!({"model_type": "qwen2_5_vl", "image_token_id": 9,
            "vocab_size": 10, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
            "vision_config": {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 16,
                "fullatt_block_indexes": []}}))
        .expect("valid");
        let mut images = [Cut::Grid { rows: 2, columns: 6 }].into_iter();
        let (places, next) = along(&config, &[1, 9, 9, 9, 2], &mut images).expect("three visual tokens");
        assert_eq!(places, [[0, 0, 0], [1, 1, 1], [1, 1, 2], [1, 1, 3], [4, 4, 4]]);
        assert_eq!(next, 5);
        assert!(along(&config, &[9, 9], &mut [Cut::Grid { rows: 2, columns: 6 }].into_iter()).is_err());
    }
}
