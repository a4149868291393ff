//! TFHE-rs on lists of compressed ciphertexts.
//!
//!     pack SERVER_KEY OUT FILE...          plain FheBool, FheUint64 or FheInt64 files into one list
//!     unpack SERVER_KEY CLIENT_KEY LIST    decompresses and decrypts every value: one line each
use std::{env, fs};
use tfhe::safe_serialization::{safe_deserialize, safe_serialize};
use tfhe::{
    prelude::*, ClientKey, CompressedCiphertextList, CompressedCiphertextListBuilder,
    CompressedServerKey, FheBool, FheInt64, FheTypes, FheUint64,
};

const LIMIT: u64 = 1 << 32;

fn read<T>(path: &str) -> T
where
    T: safe::Readable,
{
    T::read(&fs::read(path).unwrap())
}

mod safe {
    use super::*;
    pub trait Readable: Sized {
        fn read(data: &[u8]) -> Self;
    }
    macro_rules! readable {
        ($($name:ty),*) => {$(impl Readable for $name {
            fn read(data: &[u8]) -> Self {
                safe_deserialize(data, LIMIT).unwrap()
            }
        })*};
    }
    readable!(ClientKey, CompressedServerKey, CompressedCiphertextList, FheBool, FheUint64, FheInt64);
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    tfhe::set_server_key(read::<CompressedServerKey>(&arguments[2]).decompress());
    if arguments[1] == "pack" {
        let mut builder = CompressedCiphertextListBuilder::new();
        for path in &arguments[4..] {
            let data = fs::read(path).unwrap();
            let name = String::from_utf8_lossy(&data[..100.min(data.len())]).to_string();
            if name.contains("FheBool") {
                builder.push(read::<FheBool>(path));
            } else if name.contains("FheInt") {
                builder.push(read::<FheInt64>(path));
            } else {
                builder.push(read::<FheUint64>(path));
            }
        }
        let mut out = Vec::new();
        safe_serialize(&builder.build().unwrap(), &mut out, LIMIT).unwrap();
        fs::write(&arguments[3], out).unwrap();
    } else {
        let client_key: ClientKey = read(&arguments[3]);
        let list: CompressedCiphertextList = read(&arguments[4]);
        for index in 0..list.len() {
            match list.get_kind_of(index).unwrap() {
                FheTypes::Bool => {
                    let value: FheBool = list.get(index).unwrap().unwrap();
                    println!("ebool {}", value.decrypt(&client_key));
                }
                FheTypes::Uint64 => {
                    let value: FheUint64 = list.get(index).unwrap().unwrap();
                    let clear: u64 = value.decrypt(&client_key);
                    println!("euint64 {clear}");
                }
                FheTypes::Int64 => {
                    let value: FheInt64 = list.get(index).unwrap().unwrap();
                    let clear: i64 = value.decrypt(&client_key);
                    println!("eint64 {clear}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
