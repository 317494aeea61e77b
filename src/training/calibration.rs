//! Attention calibration: an answer looks at its evidence.
//!
//! Of one layer: `KL(evidence || attention over the visual tokens)`, plus how far the attention on the image falls short of
//! a floor (method.md, section 4; human attention as a target: arXiv 1606.03556, 1902.03751). Attention is the mean over
//! heads, so heads may share the work. Invariant: 0 where attention on the image is spread as the evidence is and its mass
//! reaches the floor. Deliberately absent: any claim: calibration helps only where true regions beat random ones
//! (arXiv 2004.05704), which the lab measures.

use tch::{Kind, Tensor};

/// Attention below this counts as this.
const LEAST: f64 = 1e-8;

/// Of each row, nats: `attention` `[n, keys]` float32 with rows summing to 1, `evidence` `[n, keys]` summing to 1 over visual
/// tokens (a row of zeros asks nothing but the floor), `visual` `[n, keys]` 1 at visual tokens. -> `[n]`.
pub fn loss(attention: &Tensor, evidence: &Tensor, visual: &Tensor, floor: f64) -> Tensor {
    let seen = attention * visual;
    let mass = seen.sum_dim_intlist(-1, true, seen.kind());
    let spread = (&seen / mass.clamp_min(LEAST)).clamp_min(LEAST);
    let known = evidence.clamp_min(LEAST).log() * evidence;
    let divergence = (known - evidence * spread.log()).sum_dim_intlist(-1, false, seen.kind());
    // In the mass's own scale, so that its slope does not depend on the floor's height.
    let short = (-mass.squeeze_dim(-1) + floor).clamp_min(0.0) / floor.max(LEAST);
    divergence + short
}

/// How an image's visual tokens share the evidence in `regions`: the part of each cell that lies in one of them, together 1.
///
/// `cells` are the areas of the visual tokens as fractions of the image. Empty where no region meets any cell.
pub fn evidence(cells: &[[f32; 4]], regions: &[[f32; 4]]) -> Vec<f32> {
    let part = |cell: &[f32; 4]| {
        let overlap = |region: &[f32; 4]| {
            let wide = (cell[2].min(region[2]) - cell[0].max(region[0])).max(0.0);
            let high = (cell[3].min(region[3]) - cell[1].max(region[1])).max(0.0);
            wide * high
        };
        // Regions may overlap: a cell is not more than covered.
        let area = (cell[2] - cell[0]) * (cell[3] - cell[1]);
        regions.iter().map(overlap).sum::<f32>().min(area)
    };
    let parts: Vec<f32> = cells.iter().map(part).collect();
    let sum: f32 = parts.iter().sum();
    if sum <= 0.0 { Vec::new() } else { parts.iter().map(|part| part / sum).collect() }
}

/// `KL(prior || p)` of each row of `logits` `[N, V]`, given the prior's own logits `[N, V]`, which stand still: nats `[N]`. With
/// the evidence hidden, an answer has to return to what is said without any image.
pub fn to_prior(logits: &Tensor, prior: &Tensor) -> Tensor {
    let prior = prior.detach().log_softmax(-1, Kind::Float);
    let own = logits.log_softmax(-1, Kind::Float);
    (prior.exp() * (&prior - own)).sum_dim_intlist(-1, false, Kind::Float)
}

#[cfg(test)]
mod tests {
    use super::super::likelihood::tests::check_gradient;
    use super::*;

    const EVIDENCE: [f64; 4] = [0.5, 0.5, 0.0, 0.0];
    const VISUAL: [f64; 4] = [1.0, 1.0, 1.0, 0.0];

    fn of(attention: &Tensor, floor: f64) -> Tensor {
        let row = |values: &[f64]| Tensor::from_slice(values).view([1, 4]).to_kind(attention.kind());
        loss(attention, &row(&EVIDENCE), &row(&VISUAL), floor)
    }

    #[test]
    fn attention_as_the_evidence_is_costs_nothing_and_elsewhere_it_costs_nats() {
        let right = Tensor::from_slice(&[0.1f64, 0.1, 0.0, 0.8]).view([1, 4]);
        assert!(of(&right, 0.2).double_value(&[0]).abs() < 1e-5);
        // Half as much as the floor asks: half a unit.
        assert!((of(&right, 0.4).double_value(&[0]) - 0.5).abs() < 1e-5);
        let even = Tensor::from_slice(&[0.2f64, 0.2, 0.2, 0.4]).view([1, 4]);
        assert!((of(&even, 0.2).double_value(&[0]) - 1.5f64.ln()).abs() < 1e-5);
    }

    #[test]
    fn the_gradient_is_that_of_the_plain_formula() {
        check_gradient(&[0.2, 0.1, 0.3, 0.4], &[1, 4], |t| of(t, 0.9).sum(Kind::Double));
        let prior = Tensor::from_slice(&[0.5f64, -0.5, 0.2]).view([1, 3]);
        check_gradient(&[0.3, 0.1, -0.4], &[1, 3], |t| to_prior(t, &prior).sum(Kind::Double));
    }

    #[test]
    fn cells_share_the_evidence_by_what_of_them_lies_in_it() {
        let cells = [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]];
        assert_eq!(evidence(&cells, &[[0.0, 0.0, 0.75, 1.0]]), [2.0 / 3.0, 1.0 / 3.0]);
        assert_eq!(evidence(&cells, &[[0.5, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0]]), [0.0, 1.0]);
        assert!(evidence(&cells, &[]).is_empty());
    }

    #[test]
    fn the_prior_costs_nothing_to_itself() {
        let logits = Tensor::from_slice(&[0.5f32, -0.5, 0.2]).view([1, 3]);
        assert!(to_prior(&logits, &(&logits + 3.0)).double_value(&[0]).abs() < 1e-6);
    }
}
