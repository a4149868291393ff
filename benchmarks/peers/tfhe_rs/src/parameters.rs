//! The parameters of production, and coproc's toy parameters, with which counting takes no time.

use tfhe::core_crypto::prelude::*;
use tfhe::shortint::parameters::current_params::classic::tuniform::p_fail_2_minus_128::ks_pbs::V1_5_PARAM_MESSAGE_2_CARRY_2_KS_PBS_TUNIFORM_2M128 as V1_5;
use tfhe::shortint::prelude::*;

/// No security at all.
const TOY: ClassicPBSParameters = ClassicPBSParameters {
    lwe_dimension: LweDimension(32),
    polynomial_size: PolynomialSize(512),
    lwe_noise_distribution: DynamicDistribution::new_t_uniform(30),
    ..V1_5
};

pub fn by_name(name: &str) -> Option<ClassicPBSParameters> {
    match name {
        "v1_5" => Some(V1_5),
        "toy" => Some(TOY),
        _ => None,
    }
}
