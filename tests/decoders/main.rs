//! No bytes from outside make a decoder panic, hang or believe in a length: the corpora of the fuzzer again, and seeded
//! mutations of good examples.
//!
//! `KINESIN_FUZZ_RUNS` says how many for each decoder (20,000), `KINESIN_FUZZ_SEED` which. `KINESIN_FUZZ_SEEDS=DIR` writes the
//! examples there.

mod bounds;
mod examples;

use std::path::{Path, PathBuf};

use protocol::rng::Rng;
use tests::decoders::{TARGETS, Target};

/// Longer inputs say nothing more.
const BYTES_MAX: usize = 4096;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Says what was fed, should somebody panic over it.
struct Fed<'a>(&'a str, &'a [u8]);

impl Drop for Fed<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{} was fed {hex}", self.0);
        }
    }
}

fn feed(name: &str, decode: Target, bytes: &[u8]) {
    let _fed = Fed(name, bytes);
    decode(bytes);
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// One change, of the kinds that fuzzers have found to be worth most.
fn mutate(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    let at = rng.below(bytes.len() as u64 + 1) as usize;
    match rng.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        1 if at < bytes.len() => bytes[at] = rng.next_u64() as u8,
        2 => bytes.insert(at, rng.next_u64() as u8),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..(at + rng.below(16) as usize).min(bytes.len()))),
        5 => {
            let odd = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
            let value = odd[rng.below(odd.len() as u64) as usize].to_le_bytes();
            let width = [1, 2, 4, 8][rng.below(4) as usize].min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&value[..width]);
        }
        6 => {
            let again = bytes[at..(at + rng.below(64) as usize).min(bytes.len())].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            let other = &others[rng.below(others.len() as u64) as usize];
            let from = rng.below(other.len() as u64 + 1) as usize;
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
    bytes.truncate(BYTES_MAX);
}

#[test]
fn every_input_that_a_fuzzer_has_found_worth_keeping_is_survived() {
    let mut count = 0;
    for (name, decode) in TARGETS {
        for input in corpus(name) {
            feed(name, decode, &input);
            count += 1;
        }
    }
    assert!(count > 100, "{count} inputs: where are the corpora?");
}

/// The fuzzer's programs need another compiler and are not built with the suite: one that does not compile is found here.
#[test]
fn every_decoder_has_a_program_of_the_fuzzer_that_calls_it_by_its_name() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(home.join(path)).unwrap_or_default();
    let (decoders, programs) = (read("src/decoders.rs"), read("fuzz/Cargo.toml"));
    for (name, _) in TARGETS {
        let program = read(&format!("fuzz/fuzz_targets/{name}.rs"));
        let called = program.split("tests::decoders::").nth(1).and_then(|rest| rest.split_once("(bytes));"));
        let called = called.map(|(function, _)| function).unwrap_or_default();
        assert!(decoders.contains(&format!("(\"{name}\", {called})")), "{name}: calls {called:?}");
        assert!(
            decoders.contains(&format!("\npub fn {called}(bytes: &[u8])")),
            "{name}: {called} is not public"
        );
        assert!(
            programs.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
    }
    let files = std::fs::read_dir(home.join("fuzz/fuzz_targets")).unwrap().count();
    assert_eq!(files, TARGETS.len());
}

#[test]
fn every_decoder_has_examples_which_a_fuzzer_can_begin_with() {
    let dir = std::env::var_os("KINESIN_FUZZ_SEEDS").map(PathBuf::from);
    for (name, decode) in TARGETS {
        let inputs = examples::of(name);
        assert!(!inputs.is_empty(), "{name} has no example");
        inputs.iter().for_each(|input| feed(name, decode, input));
        let Some(dir) = dir.as_ref().map(|dir| dir.join(name)) else { continue };
        std::fs::create_dir_all(&dir).unwrap();
        for (number, input) in inputs.iter().enumerate() {
            std::fs::write(dir.join(format!("example-{number}")), input).unwrap();
        }
    }
}

#[test]
fn mutations_of_good_examples_are_survived() {
    let (runs, seed) = (number("KINESIN_FUZZ_RUNS", 20_000), number("KINESIN_FUZZ_SEED", 1));
    for (name, decode) in TARGETS {
        let mut inputs = examples::of(name);
        inputs.extend(corpus(name));
        let mut rng = Rng::new(seed);
        for _ in 0..runs {
            let mut input = inputs[rng.below(inputs.len() as u64) as usize].clone();
            for _ in 0..rng.between(1, 6) {
                mutate(&mut input, &inputs, &mut rng);
            }
            feed(name, decode, &input);
        }
    }
}
