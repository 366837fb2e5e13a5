//! Feeds the decoder `video_raw`. What it does with the bytes is in `tests/src/decoders.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::decoders::run("video_raw", bytes));
