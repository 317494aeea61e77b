//! The matrix product of a linear layer, by whichever way is fastest for its shape.
//!
//! Invariant: the same product up to rounding, whichever way it takes; gradients flow where they are wanted.

use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::skinny::{self, MOST_ROWS, Product};

/// `[.., in]` by `weight` `[out, in]` -> `[.., out]`, plus `bias`.
pub(super) fn product(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let (out, into) = (weight.size()[0], weight.size()[1]);
    let rows = x.numel() as i64 / into;
    if !is_skinny(x, weight, rows) {
        return x.linear(weight, bias);
    }
    let mut shape = x.size();
    if let Some(last) = shape.last_mut() {
        *last = out;
    }
    let (x, y) = (x.contiguous(), Tensor::empty(shape, (Kind::Float, Device::Cpu)));
    let product = Product {
        x: x.data_ptr().cast::<f32>(),
        w: weight.data_ptr().cast::<f32>(),
        y: y.data_ptr().cast::<f32>(),
        rows: rows as usize,
        k: into as usize,
        n: out as usize,
    };
    // SAFETY: the three tensors are dense float32 on the CPU and of these sizes; `y` is new, so nothing else uses it; the
    // tensors outlive the call.
    unsafe { skinny::multiply(product, tch::get_num_threads().max(1) as usize) };
    match bias {
        Some(bias) => y + bias,
        None => y,
    }
}

/// Whether a product is of few rows, and of tensors that are read and nothing more.
fn is_skinny(x: &Tensor, weight: &Tensor, rows: i64) -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    let plain = |t: &Tensor| t.device() == Device::Cpu && t.kind() == Kind::Float;
    (1..=MOST_ROWS as i64).contains(&rows)
        && plain(x)
        && plain(weight)
        && weight.is_contiguous()
        && !((x.requires_grad() || weight.requires_grad()) && gradients_are_kept())
        && *AVAILABLE.get_or_init(skinny::is_available)
}

/// Whether this thread builds graphs.
fn gradients_are_kept() -> bool {
    // SAFETY: both calls only read and write a flag of this thread; the library has no call that only reads it.
    unsafe {
        let kept = torch_sys::at_grad_set_enabled(0);
        torch_sys::at_grad_set_enabled(kept);
        kept != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_are_one_product() {
        let options = (Kind::Float, Device::Cpu);
        tch::manual_seed(1);
        for (shape, out) in [([3i64, 1, 24], 40), ([2, 4, 24], 24), ([1, 1, 24], 40), ([5, 7, 24], 40)] {
            let (x, weight, bias) = (
                Tensor::randn(shape, options),
                Tensor::randn([out, 24], options),
                Tensor::randn([out], options),
            );
            // A view with gaps, as attention leaves it.
            let gaps = Tensor::cat(&[&x, &x], 2).narrow(2, 0, 24);
            for bias in [None, Some(&bias)] {
                let plain = x.linear(&weight, bias);
                for x in [&x, &gaps] {
                    let ours = product(x, &weight, bias);
                    assert_eq!(ours.size(), plain.size());
                    assert!((ours - &plain).abs().max().double_value(&[]) < 1e-5, "{shape:?} to {out}");
                }
            }
        }
    }

    #[test]
    fn gradients_flow_through_few_rows_too() {
        let options = (Kind::Float, Device::Cpu);
        let x = Tensor::randn([2, 8], options).set_requires_grad(true);
        let weight = Tensor::randn([4, 8], options);
        product(&x, &weight, None).sum(Kind::Float).backward();
        let wanted = weight.sum_dim_intlist(0, false, Kind::Float).expand([2, 8], false);
        assert!((x.grad() - wanted).abs().max().double_value(&[]) < 1e-5);
    }
}
