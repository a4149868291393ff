//! Confidential transfers in the ways that TFHE-rs measures: what leaves the source arrives at the target, if the balance
//! covers it. The last two steps are done side by side, as in TFHE-rs's own benchmark.

use tfhe::prelude::*;
use tfhe::{ClientKey, FheUint64};

use crate::operations::{Answer, Piece, Words};

type Balances = (FheUint64, FheUint64);

/// Compare, choose between the amount and nothing, add and subtract.
fn whitepaper(source: &FheUint64, target: &FheUint64, amount: &FheUint64) -> Balances {
    let moved = source.ge(amount).if_then_zero(amount);
    rayon::join(|| source - &moved, || target + &moved)
}

/// Choose by multiplying with the comparison's result.
fn no_cmux(source: &FheUint64, target: &FheUint64, amount: &FheUint64) -> Balances {
    let moved = amount * FheUint64::cast_from(source.ge(amount));
    rayon::join(|| source - &moved, || target + &moved)
}

/// Take the comparison from the subtraction's borrow.
fn overflowing(source: &FheUint64, target: &FheUint64, amount: &FheUint64) -> Balances {
    let (left, too_much) = source.overflowing_sub(amount);
    let enough = !&too_much;
    rayon::join(
        || too_much.if_then_else(source, &left),
        || target + &(amount * FheUint64::cast_from(enough)),
    )
}

/// Encrypt both balances and the amount, and leave the transfer to be done.
pub fn piece(flavour: &str, values: &[Words], key: &ClientKey) -> Piece {
    let [source, target, amount] = [0, 1, 2].map(|place| FheUint64::encrypt(values[place][0], key));
    let transfer = match flavour {
        "whitepaper" => whitepaper,
        "no_cmux" => no_cmux,
        "overflowing" => overflowing,
        _ => panic!("no transfer {flavour}"),
    };
    Box::new(move || -> Answer {
        let (left, right) = transfer(&source, &target, &amount);
        Box::new(move |key| {
            [&left, &right].map(|balance| [balance.decrypt(key), 0, 0, 0]).to_vec()
        })
    })
}
