//! The tensor library's kernels over many tensors at once (`optimiser.cpp`): a few starts on a GPU where one for each tensor
//! and operation would take longer than the arithmetic.
//!
//! Invariant: a refusal is a panic with the library's own text, as everywhere in its bindings.

use std::ffi::{CStr, c_char};
use tch::Tensor;
use torch_sys::C_tensor;

/// The numbers of one step of AdamW.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// From 1, the first step.
    pub step: f64,
    pub rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub decay: f64,
    pub eps: f64,
}

unsafe extern "C" {
    fn active_vlm_adamw(
        parameters: *const *const C_tensor,
        gradients: *const *const C_tensor,
        means: *const *const C_tensor,
        squares: *const *const C_tensor,
        count: usize,
        step: Step,
    ) -> *const c_char;
    fn active_vlm_norm(tensors: *const *const C_tensor, count: usize, norm: *mut f64) -> *const c_char;
    fn active_vlm_scale(tensors: *const *const C_tensor, count: usize, factor: f64) -> *const c_char;
    fn active_vlm_forget(tensors: *const *const C_tensor, count: usize) -> *const c_char;
}

/// One step on dense tensors of one kind and device, changed in place: as many of each, of equal shapes.
pub(super) fn adamw(
    parameters: &[&Tensor],
    gradients: &[&Tensor],
    means: &[&Tensor],
    squares: &[&Tensor],
    step: Step,
) {
    let count = parameters.len();
    assert!([gradients.len(), means.len(), squares.len()] == [count; 3], "as many of each");
    let [parameters, gradients, means, squares] = [parameters, gradients, means, squares].map(pointers);
    // SAFETY: each list has `count` pointers to tensors that outlive the call.
    check(unsafe {
        let [parameters, gradients] = [parameters.as_ptr(), gradients.as_ptr()];
        active_vlm_adamw(parameters, gradients, means.as_ptr(), squares.as_ptr(), count, step)
    });
}

/// The joint 2-norm of at least one tensor.
pub(super) fn norm(tensors: &[&Tensor]) -> f64 {
    let (pointers, mut norm) = (pointers(tensors), f64::NAN);
    // SAFETY: as many pointers to tensors that outlive the call as are told, and a place for the result.
    check(unsafe { active_vlm_norm(pointers.as_ptr(), pointers.len(), &raw mut norm) });
    norm
}

/// Multiplies tensors in place.
pub(super) fn scale(tensors: &[&Tensor], factor: f64) {
    let pointers = pointers(tensors);
    // SAFETY: as many pointers to tensors that outlive the call as are told.
    check(unsafe { active_vlm_scale(pointers.as_ptr(), pointers.len(), factor) });
}

/// Lets go of the tensors' gradients.
pub(super) fn forget(tensors: &[&Tensor]) {
    let pointers = pointers(tensors);
    // SAFETY: as many pointers to tensors that outlive the call as are told.
    check(unsafe { active_vlm_forget(pointers.as_ptr(), pointers.len()) });
}

fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// Panics with what the library says, if it says something.
fn check(told: *const c_char) {
    if !told.is_null() {
        // SAFETY: a string of this thread that lives until its next call.
        panic!("{}", unsafe { CStr::from_ptr(told) }.to_string_lossy());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tensors_are_one_vector() {
        let (a, b) = (Tensor::from_slice(&[3.0f32, 0.0]), Tensor::from_slice(&[-4.0f32]).view([1, 1]));
        assert!((norm(&[&a, &b]) - 5.0).abs() < 1e-6);
        scale(&[&a, &b], 0.5);
        assert!((norm(&[&a, &b]) - 2.5).abs() < 1e-6 && (b.double_value(&[0, 0]) + 2.0).abs() < 1e-6);
    }

    #[test]
    #[should_panic(expected = "expected scalar type")]
    fn what_the_library_refuses_is_a_panic_in_its_words() {
        let (a, b) = (Tensor::from_slice(&[1.0f32]), Tensor::from_slice(&[1.0f64]));
        let step = Step { step: 1.0, rate: 0.1, beta1: 0.9, beta2: 0.9, decay: 0.0, eps: 0.0 };
        adamw(&[&a], &[&b], &[&a], &[&a], step);
    }
}
