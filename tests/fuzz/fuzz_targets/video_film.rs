//! Feeds the decoder `video_film`. What it does with the bytes is in `tests/src/decoders.rs`; called by its name, so that no
//! other decoder is linked, whose counters would have to be looked through after every input.

#![no_main]

// The decoder catches panics of a crate that it uses; the fuzzer's hook would end the process before that.
libfuzzer_sys::fuzz_target!(
    init: drop(std::panic::take_hook()),
    |bytes: &[u8]| tests::decoders::video_film(bytes)
);
