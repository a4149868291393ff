//! Every operation of the table on every type, as one call of TFHE-rs's high-level API.

use tfhe::integer::{I256, U256};
use tfhe::prelude::*;
use tfhe::{ClientKey, FheBool, Seed};

use crate::Request;

/// A value of up to 256 bits, least significant word first.
pub type Words = [u64; 4];
/// What an instance gave; decrypts itself.
pub type Answer = Box<dyn Fn(&ClientKey) -> Vec<Words> + Send>;
/// One instance of the work, its operands encrypted.
pub type Piece = Box<dyn Fn() -> Answer + Send + Sync>;

pub fn hex_words(text: &str) -> Words {
    let mut words = [0; 4];
    for (place, digit) in text.bytes().rev().enumerate() {
        let value = (digit as char).to_digit(16).expect("hexadecimal");
        words[place / 16] |= u64::from(value) << (place % 16 * 4);
    }
    words
}

pub fn word_text(words: &Words) -> String {
    format!("{:016x}{:016x}{:016x}{:016x}", words[3], words[2], words[1], words[0])
}

/// A native integer, made of words and cut to its width.
trait Clear {
    fn of(words: &Words) -> Self;
    fn words(self) -> Words;
}

macro_rules! native {
    ($($type:ty: $unsigned:ty),*) => {$(
        impl Clear for $type {
            fn of(words: &Words) -> Self {
                (u128::from(words[1]) << 64 | u128::from(words[0])) as $type
            }
            fn words(self) -> Words {
                let value = u128::from(self as $unsigned);
                [value as u64, (value >> 64) as u64, 0, 0]
            }
        }
    )*};
}
native!(u8: u8, u16: u16, u32: u32, u64: u64, u128: u128, i8: u8, i16: u16, i32: u32, i64: u64, i128: u128);

macro_rules! wide {
    ($($type:ty),*) => {$(
        impl Clear for $type {
            fn of(words: &Words) -> Self {
                Self::from(*words)
            }
            fn words(self) -> Words {
                let mut bytes = [0; 32];
                self.copy_to_le_byte_slice(&mut bytes);
                std::array::from_fn(|place| u64::from_le_bytes(bytes[8 * place..][..8].try_into().expect("8 bytes")))
            }
        }
    )*};
}
wide!(U256, I256);

fn bit(result: FheBool) -> Answer {
    Box::new(move |key| vec![[u64::from(result.decrypt(key)), 0, 0, 0]])
}

fn truth(words: &Words, key: &ClientKey) -> FheBool {
    FheBool::encrypt(words[0] & 1 == 1, key)
}

macro_rules! integers {
    ($module:ident, $cipher:ident, $clear:ty, $amount:ident) => {
        mod $module {
            use super::*;
            use tfhe::$cipher;

            fn word(result: $cipher) -> Answer {
                Box::new(move |key| {
                    let value: $clear = result.decrypt(key);
                    vec![value.words()]
                })
            }

            pub fn piece(request: &Request, values: &[Words], key: &ClientKey) -> Piece {
                let integer = |words: &Words| $cipher::encrypt(<$clear>::of(words), key);
                let name = request.name.as_str();
                if name.starts_with("sum_") {
                    let all: Vec<$cipher> = values.iter().map(integer).collect();
                    return Box::new(move || word(all.iter().sum()));
                }
                if name == "rand" {
                    return Box::new(|| word($cipher::generate_oblivious_pseudo_random(Seed(1))));
                }
                if name == "if_then_else" {
                    let (c, a, b) = (truth(&values[0], key), integer(&values[1]), integer(&values[2]));
                    return Box::new(move || word(c.if_then_else(&a, &b)));
                }
                let a = integer(&values[0]);
                match name {
                    "neg" => return Box::new(move || word(-&a)),
                    "not" => return Box::new(move || word(!&a)),
                    _ => {}
                }
                if request.scalar {
                    let b = <$clear>::of(&values[1]);
                    let amount = values[1][0];
                    return match name {
                        "add" => Box::new(move || word(&a + b)),
                        "sub" => Box::new(move || word(&a - b)),
                        "mul" => Box::new(move || word(&a * b)),
                        "div" => Box::new(move || word(&a / b)),
                        "rem" => Box::new(move || word(&a % b)),
                        "bit_and" => Box::new(move || word(&a & b)),
                        "bit_or" => Box::new(move || word(&a | b)),
                        "bit_xor" => Box::new(move || word(&a ^ b)),
                        "eq" => Box::new(move || bit(a.eq(b))),
                        "ne" => Box::new(move || bit(a.ne(b))),
                        "lt" => Box::new(move || bit(a.lt(b))),
                        "le" => Box::new(move || bit(a.le(b))),
                        "gt" => Box::new(move || bit(a.gt(b))),
                        "ge" => Box::new(move || bit(a.ge(b))),
                        "min" => Box::new(move || word(a.min(b))),
                        "max" => Box::new(move || word(a.max(b))),
                        "shl" => Box::new(move || word(&a << amount)),
                        "shr" => Box::new(move || word(&a >> amount)),
                        "rotl" => Box::new(move || word((&a).rotate_left(amount))),
                        "rotr" => Box::new(move || word((&a).rotate_right(amount))),
                        _ => panic!("no operation {name} with a public operand"),
                    };
                }
                if matches!(name, "shl" | "shr" | "rotl" | "rotr") {
                    // Amounts are unsigned for signed values too.
                    let b = tfhe::$amount::encrypt(U256::of(&values[1]), key);
                    return match name {
                        "shl" => Box::new(move || word(&a << &b)),
                        "shr" => Box::new(move || word(&a >> &b)),
                        "rotl" => Box::new(move || word((&a).rotate_left(&b))),
                        _ => Box::new(move || word((&a).rotate_right(&b))),
                    };
                }
                let b = integer(&values[1]);
                match name {
                    "add" => Box::new(move || word(&a + &b)),
                    "sub" => Box::new(move || word(&a - &b)),
                    "mul" => Box::new(move || word(&a * &b)),
                    "div" => Box::new(move || word(&a / &b)),
                    "rem" => Box::new(move || word(&a % &b)),
                    "bit_and" => Box::new(move || word(&a & &b)),
                    "bit_or" => Box::new(move || word(&a | &b)),
                    "bit_xor" => Box::new(move || word(&a ^ &b)),
                    "eq" => Box::new(move || bit(a.eq(&b))),
                    "ne" => Box::new(move || bit(a.ne(&b))),
                    "lt" => Box::new(move || bit(a.lt(&b))),
                    "le" => Box::new(move || bit(a.le(&b))),
                    "gt" => Box::new(move || bit(a.gt(&b))),
                    "ge" => Box::new(move || bit(a.ge(&b))),
                    "min" => Box::new(move || word(a.min(&b))),
                    "max" => Box::new(move || word(a.max(&b))),
                    _ => panic!("no operation {name}"),
                }
            }
        }
    };
}

integers!(euint8, FheUint8, u8, FheUint8);
integers!(euint16, FheUint16, u16, FheUint16);
integers!(euint32, FheUint32, u32, FheUint32);
integers!(euint64, FheUint64, u64, FheUint64);
integers!(euint128, FheUint128, u128, FheUint128);
integers!(euint256, FheUint256, U256, FheUint256);
integers!(eint8, FheInt8, i8, FheUint8);
integers!(eint16, FheInt16, i16, FheUint16);
integers!(eint32, FheInt32, i32, FheUint32);
integers!(eint64, FheInt64, i64, FheUint64);
integers!(eint128, FheInt128, i128, FheUint128);
integers!(eint256, FheInt256, I256, FheUint256);

fn booleans(request: &Request, values: &[Words], key: &ClientKey) -> Piece {
    let a = truth(&values[0], key);
    let name = request.name.as_str();
    if name == "not" {
        return Box::new(move || bit(!&a));
    }
    let b = truth(&values[1], key);
    match name {
        "bit_and" => Box::new(move || bit(&a & &b)),
        "bit_or" => Box::new(move || bit(&a | &b)),
        "bit_xor" => Box::new(move || bit(&a ^ &b)),
        "eq" => Box::new(move || bit(a.eq(&b))),
        "ne" => Box::new(move || bit(a.ne(&b))),
        "if_then_else" => {
            let c = truth(&values[2], key);
            Box::new(move || bit(a.if_then_else(&b, &c)))
        }
        _ => panic!("no operation {name} on booleans"),
    }
}

/// Encrypt operands, and leave the operation to be done.
pub fn piece(request: &Request, values: &[Words], key: &ClientKey) -> Piece {
    let make = match request.of.as_str() {
        "ebool" => booleans,
        "euint8" => euint8::piece,
        "euint16" => euint16::piece,
        "euint32" => euint32::piece,
        "euint64" => euint64::piece,
        "euint128" => euint128::piece,
        "euint256" => euint256::piece,
        "eint8" => eint8::piece,
        "eint16" => eint16::piece,
        "eint32" => eint32::piece,
        "eint64" => eint64::piece,
        "eint128" => eint128::piece,
        "eint256" => eint256::piece,
        other => panic!("no type {other}"),
    };
    make(request, values, key)
}
