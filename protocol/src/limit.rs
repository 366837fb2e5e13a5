//! Every bound of the wire and of the data model, each with its sentence. Pure.
//!
//! A bound that only one side knows lives with that side; what both must agree on lives here.

/// A partition key has 1 to 256 Unicode characters (Kinesis API, `PartitionKey`).
pub const PARTITION_KEY_CHARS_MAX: usize = 256;

/// ... and so never more than four bytes for each of them.
pub const PARTITION_KEY_BYTES_MAX: usize = PARTITION_KEY_CHARS_MAX * 4;

/// A stream name has 1 to 128 of `[a-zA-Z0-9_.-]` (Kinesis API, `StreamName`).
pub const STREAM_NAME_CHARS_MAX: usize = 128;

/// A record's data is at most 10 MiB, whatever a stream is configured to (Kinesis API, `MaxRecordSizeInKiB`).
pub const RECORD_BYTES_MAX: usize = 10 * 1024 * 1024;

/// A record's data is at most 1 MiB unless its stream says otherwise.
pub const RECORD_BYTES_MAX_DEFAULT: usize = 1024 * 1024;

/// A batch holds at most this many records, so that tables made from it are bounded.
pub const BATCH_RECORDS_MAX: usize = 65_535;

/// A batch holds at most this many distinct partition keys.
pub const BATCH_KEYS_MAX: usize = 16_384;

/// A batch's payload is at most this long before compression: one record of the largest size, and its table.
pub const BATCH_RAW_BYTES_MAX: usize = RECORD_BYTES_MAX + 512 * 1024;

/// A frame, header and stored payload, is never longer.
pub const FRAME_BYTES_MAX: usize = BATCH_RAW_BYTES_MAX + 64 * 1024;

/// A message on the wire is never longer, once the sender is known.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + 1024;

/// A message is never longer before its sender is known: a greeting or a certificate request fits.
pub const MESSAGE_BYTES_MAX_BEFORE_AUTH: usize = 16 * 1024;

/// A call or a reply (JSON) is never longer.
pub const CALL_BYTES_MAX: usize = 1024 * 1024;

/// A connection has at most this many batches sent and not answered.
pub const INFLIGHT_BATCHES_MAX: usize = 256;

/// A connection has at most this many bytes of batches sent and not answered.
pub const INFLIGHT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A stream has at most this many shards that are open.
pub const STREAM_SHARDS_MAX: usize = 10_000;

/// What a shard takes unless its stream says otherwise: 1 MiB a second (Kinesis quota).
pub const SHARD_BYTES_PER_SECOND: u64 = 1024 * 1024;

/// ... and 1,000 records a second (Kinesis quota).
pub const SHARD_RECORDS_PER_SECOND: u64 = 1000;

/// A read answers with at most this many bytes of batches.
pub const READ_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A read waits at most this long for something new.
pub const READ_WAIT_MS_MAX: u64 = 30_000;
