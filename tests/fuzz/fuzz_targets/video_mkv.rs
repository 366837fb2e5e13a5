//! Feeds the decoder `video_mkv`. What it does with the bytes is in `tests/src/decoders.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::decoders::run("video_mkv", bytes));
