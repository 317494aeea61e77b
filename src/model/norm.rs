//! Norms: over a whole vector, in float32 whatever the kind of number (torch accumulates so).

use tch::Tensor;

use super::lora::Parts;

/// Layer norm with weight and bias.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// By reference name, without `.weight`.
    pub fn assemble(parts: &Parts, name: &str, eps: f64) -> Self {
        let part = |end: &str| parts.tensor(&format!("{name}.{end}"));
        Self { weight: part("weight"), bias: part("bias"), eps }
    }

    /// `[.., D] -> [.., D]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), self.eps, true)
    }
}

/// Root mean square norm (Zhang and Sennrich, arXiv 1910.07467).
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// By reference name, without `.weight`.
    pub fn assemble(parts: &Parts, name: &str, eps: f64) -> Self {
        Self { weight: parts.tensor(&format!("{name}.weight")), eps }
    }

    /// `[.., D] -> [.., D]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.rms_norm(self.weight.size(), Some(&self.weight), self.eps)
    }
}
