//! π0 as TTNN ops, over any runtime.
//!
//! Row counts: a camera is 256 prefix rows, the prompt is padded to a tile; rows of absent cameras do not exist. The suffix is one
//! block of tiles: actions first, then the state token, then padding.

mod denoise;
pub mod model;
mod ops;
pub mod prefill;
mod vision;

pub use denoise::{Denoise, GuidedStep, Schedule, denoise, guided_steps};
pub use model::Model;
pub use ops::Ops;
pub use prefill::{KeyValues, Prefix, prefill};
pub use vision::vision;

use super::terms::{ComputeKernelConfig, MathFidelity};

/// LayerNorm and RMSNorm of SigLIP and Gemma.
pub const EPSILON: f32 = 1e-6;

/// Products: HiFi2 is every bit of a bfloat8_b weight times seven of the activation's eight, at half of HiFi4's time.
pub const PRODUCT: ComputeKernelConfig = compute(MathFidelity::HiFi2);
/// Attention: HiFi3 is every bit of two bfloat16 operands but the lowest product.
pub const ATTENTION: ComputeKernelConfig = compute(MathFidelity::HiFi3);
/// Norms and RoPE.
pub const ELEMENTWISE: ComputeKernelConfig = compute(MathFidelity::HiFi3);

/// Exact functions, float32 sums.
const fn compute(math_fidelity: MathFidelity) -> ComputeKernelConfig {
    ComputeKernelConfig { math_fidelity, math_approx_mode: false, fp32_dest_acc_en: true, packer_l1_acc: true }
}
