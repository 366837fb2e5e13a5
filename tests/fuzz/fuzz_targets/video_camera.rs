//! Feeds the decoder `video_camera`. What it does with the bytes is in `tests/src/decoders.rs`; called by its name, so that no
//! other decoder is linked, whose counters would have to be looked through after every input.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::decoders::video_camera(bytes));
