//! Native TFHE-rs as a peer of coproc: does one piece of work a line of JSON, and says how long it took.
//!
//! Whoever drives it takes turns: while nobody asks, this process sleeps. Operations are those of the high-level API,
//! which is what the workers of fhevm call; a bootstrap is TFHE-rs's `apply_lookup_table`, keyswitch included.

mod operations;
mod parameters;
mod transfers;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::time::Instant;

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde::{Deserialize, Serialize};
use tfhe::shortint::Ciphertext;
use tfhe::{ClientKey, ConfigBuilder, ServerKey, generate_keys, set_server_key};

use operations::{Piece, Words, hex_words, word_text};

/// One line of input.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Request {
    /// An operation, `transfer_...`, or `bootstrap`.
    name: String,
    /// Of the operands, as in coproc (`euint64`, `eint8`, `ebool`).
    #[serde(default, rename = "type")]
    of: String,
    /// Whether the last operand is a public value.
    #[serde(default)]
    scalar: bool,
    /// Of each independent instance, in hexadecimal; for a bootstrap, how many matters alone.
    operands: Vec<Vec<String>>,
    threads: usize,
    /// Whole passes over all instances are made until so much time is over.
    seconds: f64,
}

/// One line of output.
#[derive(Serialize)]
struct Reply {
    /// Of each pass.
    seconds: Vec<f64>,
    /// CPU time of all threads, over all passes: what a machine that others use too does not change.
    cpu_seconds: f64,
    /// What the first pass gave, decrypted.
    answers: Vec<Vec<String>>,
    /// Of one pass; null in builds that do not count.
    bootstraps: Option<u64>,
}

struct Keys {
    client: ClientKey,
    server: ServerKey,
    pools: HashMap<usize, ThreadPool>,
}

impl Keys {
    /// Threads that know the server key; TFHE-rs chooses its algorithms by how many there are.
    fn pool(&mut self, threads: usize) -> &ThreadPool {
        let server = &self.server;
        self.pools.entry(threads).or_insert_with(|| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.broadcast(|_| set_server_key(server.clone()));
            pool
        })
    }
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_else(|| "v1_5".into());
    let parameters = parameters::by_name(&name).expect("parameters: v1_5 or toy");
    let began = Instant::now();
    let (client, server) = generate_keys(ConfigBuilder::with_custom_parameters(parameters).build());
    let mut keys = Keys { client, server, pools: HashMap::new() };
    say(&serde_json::json!({
        "tfhe": "1.5.1",
        "parameters": name,
        "avx512": cfg!(target_arch = "x86_64") && std::arch::is_x86_feature_detected!("avx512f"),
        "counts": cfg!(feature = "count"),
        "key_seconds": began.elapsed().as_secs_f64(),
    }));
    for line in std::io::stdin().lock().lines() {
        let request: Request = serde_json::from_str(&line.expect("input")).expect("a request");
        let reply = if request.name == "bootstrap" {
            bootstraps(&mut keys, &request)
        } else {
            let pieces = pieces(&keys, &request);
            work(&mut keys, &request, &pieces)
        };
        say(&serde_json::to_value(reply).expect("a reply"));
    }
}

fn say(value: &serde_json::Value) {
    println!("{value}");
    std::io::stdout().flush().expect("output");
}

/// Encrypt the operands of every instance.
fn pieces(keys: &Keys, request: &Request) -> Vec<Piece> {
    request
        .operands
        .iter()
        .map(|operands| {
            let values: Vec<Words> = operands.iter().map(|text| hex_words(text)).collect();
            if let Some(flavour) = request.name.strip_prefix("transfer_") {
                transfers::piece(flavour, &values, &keys.client)
            } else {
                operations::piece(request, &values, &keys.client)
            }
        })
        .collect()
}

/// Pass over all instances, in parallel if there are several, until the time is over.
fn work(keys: &mut Keys, request: &Request, pieces: &[Piece]) -> Reply {
    let pool = keys.pool(request.threads);
    let mut seconds = Vec::new();
    let mut first = None;
    reset_count();
    let mut bootstraps = None;
    let cpu = cpu_seconds();
    while first.is_none() || seconds.iter().sum::<f64>() < request.seconds {
        let began = Instant::now();
        let answers: Vec<_> = pool.install(|| {
            if let [piece] = pieces { vec![piece()] } else { pieces.par_iter().with_max_len(1).map(|piece| piece()).collect() }
        });
        seconds.push(began.elapsed().as_secs_f64());
        if first.is_none() {
            bootstraps = read_count();
            first = Some(answers);
        }
    }
    let cpu_seconds = cpu_seconds() - cpu;
    let answers = first.expect("one pass at least");
    let shown = answers.iter().map(|answer| answer(&keys.client).iter().map(word_text).collect()).collect();
    Reply { seconds, cpu_seconds, answers: shown, bootstraps }
}

/// Keyswitch and bootstrap every block once, again and again.
fn bootstraps(keys: &mut Keys, request: &Request) -> Reply {
    let client = keys.client.clone().into_raw_parts().0;
    let client: &tfhe::shortint::ClientKey = client.as_ref();
    let server = keys.server.clone().into_raw_parts().0.into_raw_parts();
    let table = server.generate_lookup_table(|value| (value + 1) % 4);
    let blocks: Vec<Ciphertext> = (0..request.operands.len()).map(|value| client.encrypt(value as u64 % 4)).collect();
    let pool = keys.pool(request.threads);
    let mut seconds = Vec::new();
    let mut answers = Vec::new();
    reset_count();
    let mut counted = None;
    let cpu = cpu_seconds();
    while seconds.is_empty() || seconds.iter().sum::<f64>() < request.seconds {
        let began = Instant::now();
        let results: Vec<Ciphertext> = pool.install(|| {
            blocks.par_iter().with_max_len(1).map(|block| black_box(server.apply_lookup_table(block, &table))).collect()
        });
        seconds.push(began.elapsed().as_secs_f64());
        if answers.is_empty() {
            counted = read_count();
            answers = results.iter().map(|result| vec![format!("{:x}", client.decrypt(result))]).collect();
        }
    }
    Reply { seconds, cpu_seconds: cpu_seconds() - cpu, answers, bootstraps: counted }
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid for the call, which writes one timespec.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "no clock of CPU time");
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[cfg(feature = "count")]
fn reset_count() {
    tfhe::reset_pbs_count();
}

#[cfg(not(feature = "count"))]
fn reset_count() {}

#[cfg(feature = "count")]
fn read_count() -> Option<u64> {
    Some(tfhe::get_pbs_count())
}

#[cfg(not(feature = "count"))]
fn read_count() -> Option<u64> {
    None
}
