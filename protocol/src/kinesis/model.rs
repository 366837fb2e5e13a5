//! What a request of each operation looks like: members, types, bounds, patterns. Pure. The names, bounds and patterns
//! are those of the service's published model (2013-12-02, `service-2.json`).

/// A pattern, as it is told and as it is tested.
#[derive(Debug, Clone, Copy)]
pub struct Pattern {
    /// As it stands in messages.
    pub text: &'static str,
    /// Whether a text has it.
    pub fits: fn(&str) -> bool,
}

/// A type with its bounds. Numbers are the least and the most.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Characters.
    Text(u64, u64, Option<Pattern>),
    /// One of these.
    Enum(&'static [&'static str]),
    /// A whole number.
    Int(i64, i64),
    /// Yes or no.
    Bool,
    /// Bytes.
    Blob(u64),
    /// A time.
    Time,
    /// How many, of what, and what messages call a structure in it.
    List(u64, u64, &'static Shape, &'static str),
    /// How many; bounds of the names; bounds of the texts.
    Texts(u64, u64, (u64, u64), (u64, u64)),
    /// A structure.
    Struct(&'static [Member]),
}

/// A member of a structure.
#[derive(Debug, Clone, Copy)]
pub struct Member {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub shape: Shape,
    /// Whether it must be there.
    pub required: bool,
}

const fn must(name: &'static str, shape: Shape) -> Member {
    Member { name, shape, required: true }
}

const fn may(name: &'static str, shape: Shape) -> Member {
    Member { name, shape, required: false }
}

/// The model says none.
const UNLIMITED: u64 = u64::MAX;

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_number(text: &str, digits: usize) -> bool {
    let digits = (1..=digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0'))
}

/// `arn:aws.*:kinesis:.*:\d{12}:` and what is behind it.
fn behind_account(text: &str) -> Option<&str> {
    let rest = text.strip_prefix("arn:aws")?;
    let (_, rest) = rest.split_once(":kinesis:")?;
    let (_, rest) = rest.split_once(':')?;
    let (account, rest) = rest.split_once(':')?;
    (account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())).then_some(rest)
}

fn is_stream_arn(text: &str) -> bool {
    behind_account(text)
        .and_then(|rest| rest.strip_prefix("stream/"))
        .is_some_and(|name| !name.is_empty() && !name.contains(char::is_whitespace))
}

fn is_resource_arn(text: &str) -> bool {
    behind_account(text).is_some_and(|rest| {
        ["stream/", "channel/", "queue/"].iter().any(|kind| {
            rest.split_once(kind)
                .is_some_and(|(_, name)| !name.is_empty() && !name.contains(char::is_whitespace))
        })
    })
}

fn is_consumer_arn(text: &str) -> bool {
    let Some((_, path)) = behind_account(text).and_then(|rest| rest.split_once("stream/")) else {
        return false;
    };
    let Some((stream, consumer)) = path.split_once("/consumer/") else { return false };
    let Some((name, created)) = consumer.split_once(':') else { return false };
    is_name(stream) && is_name(name) && !created.is_empty() && created.bytes().all(|b| b.is_ascii_digit())
}

fn is_stream_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(long, short)| {
        let fits = |part: &str| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        long.len() == 20 && short.len() == 3 && fits(long) && fits(short)
    })
}

const NAME_PATTERN: Pattern = Pattern { text: "[a-zA-Z0-9_.-]+", fits: is_name };
const NAME: Shape = Shape::Text(1, 128, Some(NAME_PATTERN));
const STREAM_ARN: Shape = Shape::Text(
    1,
    2048,
    Some(Pattern { text: r"arn:aws.*:kinesis:.*:\d{12}:stream/\S+", fits: is_stream_arn }),
);
const RESOURCE_ARN: Shape = Shape::Text(
    1,
    2048,
    Some(Pattern {
        text: r"arn:aws.*:kinesis:.*:\d{12}:.*(stream|channel|queue)/\S+",
        fits: is_resource_arn,
    }),
);
const CONSUMER_ARN: Shape = Shape::Text(
    1,
    2048,
    Some(Pattern {
        text: r"^(arn):aws.*:kinesis:.*:\d{12}:.*stream\/[a-zA-Z0-9_.-]+\/consumer\/[a-zA-Z0-9_.-]+:[0-9]+",
        fits: is_consumer_arn,
    }),
);
const STREAM_ID: Shape =
    Shape::Text(1, 24, Some(Pattern { text: "[a-z0-9]{20}-[a-z0-9]{3}", fits: is_stream_id }));
const HASH_KEY: Shape = Shape::Text(
    0,
    UNLIMITED,
    Some(Pattern { text: r"^(0|([1-9]\d{0,38}))$", fits: |text| is_number(text, 39) }),
);
const SEQUENCE: Shape = Shape::Text(
    0,
    UNLIMITED,
    Some(Pattern { text: r"^(0|([1-9]\d{0,128}))$", fits: |text| is_number(text, 129) }),
);
const ANY_TEXT: Shape = Shape::Text(0, UNLIMITED, None);
const TOKEN: Shape = Shape::Text(1, 1_048_576, None);
const ITERATOR: Shape = Shape::Text(1, 512, None);
const PARTITION_KEY: Shape = Shape::Text(1, 256, None);
const KEY_ID: Shape = Shape::Text(1, 2048, None);
const LIMIT: Shape = Shape::Int(1, 10_000);
const HOURS: Shape = Shape::Int(i64::MIN, i64::MAX);
const NATURAL: Shape = Shape::Int(0, i64::MAX);
const POSITIVE: Shape = Shape::Int(1, i64::MAX);
const DATA: Shape = Shape::Blob(10_485_760);
const RECORD_KIB: Shape = Shape::Int(1024, 10_240);
const TAGS: Shape = Shape::Texts(1, 200, (1, 128), (0, 256));
const TAG_KEYS: Shape = Shape::List(1, 50, &Shape::Text(1, 128, None), "");
const ENCRYPTION: Shape = Shape::Enum(&["NONE", "KMS"]);
const STRATEGY: Shape = Shape::Enum(&["AUTO", "USER_PARTITION_KEY"]);
const COMMITMENT: Shape = Shape::Struct(&[must("Status", Shape::Enum(&["ENABLED", "DISABLED"]))]);
const ITERATOR_TYPE: Shape =
    Shape::Enum(&["AFTER_SEQUENCE_NUMBER", "LATEST", "AT_TIMESTAMP", "AT_SEQUENCE_NUMBER", "TRIM_HORIZON"]);
const MODE: Shape = Shape::Struct(&[must("StreamMode", Shape::Enum(&["PROVISIONED", "ON_DEMAND"]))]);
/// In a list of metrics: every one of them.
pub const ALL_METRICS: &str = "ALL";
/// Metrics that a shard may be asked to have.
pub const METRIC_NAMES: &[&str] = &[
    "IncomingBytes",
    "IncomingRecords",
    "OutgoingBytes",
    "OutgoingRecords",
    "WriteProvisionedThroughputExceeded",
    "ReadProvisionedThroughputExceeded",
    "IteratorAgeMilliseconds",
    ALL_METRICS,
];
const METRICS: Shape = Shape::List(1, 7, &Shape::Enum(METRIC_NAMES), "");
const FILTER: Shape = Shape::Struct(&[
    must(
        "Type",
        Shape::Enum(&[
            "AFTER_SHARD_ID",
            "AT_TRIM_HORIZON",
            "FROM_TRIM_HORIZON",
            "AT_LATEST",
            "AT_TIMESTAMP",
            "FROM_TIMESTAMP",
        ]),
    ),
    may("ShardId", NAME),
    may("Timestamp", Shape::Time),
]);
const RECORDS: Shape = Shape::List(
    1,
    500,
    &Shape::Struct(&[
        must("Data", DATA),
        may("ExplicitHashKey", HASH_KEY),
        may("PartitionKey", PARTITION_KEY),
    ]),
    "com.amazonaws.kinesis.v20131202.PutRecordsRequestEntry@c965e310",
);
const POSITION: Shape = Shape::Struct(&[
    must("Type", ITERATOR_TYPE),
    may("SequenceNumber", SEQUENCE),
    may("Timestamp", Shape::Time),
]);

const NAMED: Member = may("StreamName", NAME);
const BY_ARN: Member = may("StreamARN", STREAM_ARN);
const BY_ID: Member = may("StreamId", STREAM_ID);
const DRY: Member = may("DryRun", Shape::Bool);

/// Every operation of streams, with its request.
pub const OPERATIONS: &[(&str, &[Member])] = &[
    ("AddTagsToStream", &[NAMED, must("Tags", TAGS), BY_ARN, BY_ID]),
    (
        "CreateStream",
        &[
            must("StreamName", NAME),
            may("ShardCount", POSITIVE),
            may("StreamModeDetails", MODE),
            may("Tags", TAGS),
            may("WarmThroughputMiBps", NATURAL),
            may("MaxRecordSizeInKiB", RECORD_KIB),
            may("RecordDistributionStrategy", STRATEGY),
        ],
    ),
    ("DecreaseStreamRetentionPeriod", &[NAMED, must("RetentionPeriodHours", HOURS), BY_ARN, BY_ID]),
    ("DeleteResourcePolicy", &[must("ResourceARN", RESOURCE_ARN), BY_ID]),
    ("DeleteStream", &[NAMED, may("EnforceConsumerDeletion", Shape::Bool), BY_ARN, BY_ID]),
    (
        "DeregisterStreamConsumer",
        &[BY_ARN, may("ConsumerName", NAME), may("ConsumerARN", CONSUMER_ARN), BY_ID],
    ),
    ("DescribeAccountSettings", &[]),
    ("DescribeLimits", &[]),
    ("DescribeStream", &[NAMED, may("Limit", LIMIT), may("ExclusiveStartShardId", NAME), BY_ARN, BY_ID]),
    ("DescribeStreamConsumer", &[BY_ARN, may("ConsumerName", NAME), may("ConsumerARN", CONSUMER_ARN), BY_ID]),
    ("DescribeStreamSummary", &[NAMED, BY_ARN, BY_ID]),
    ("DisableEnhancedMonitoring", &[NAMED, must("ShardLevelMetrics", METRICS), BY_ARN, BY_ID]),
    ("EnableEnhancedMonitoring", &[NAMED, must("ShardLevelMetrics", METRICS), BY_ARN, BY_ID]),
    ("GetRecords", &[must("ShardIterator", ITERATOR), may("Limit", LIMIT), BY_ARN, BY_ID, DRY]),
    ("GetResourcePolicy", &[must("ResourceARN", RESOURCE_ARN), BY_ID]),
    (
        "GetShardIterator",
        &[
            NAMED,
            must("ShardId", NAME),
            must("ShardIteratorType", ITERATOR_TYPE),
            may("StartingSequenceNumber", SEQUENCE),
            may("Timestamp", Shape::Time),
            BY_ARN,
            BY_ID,
            DRY,
        ],
    ),
    ("IncreaseStreamRetentionPeriod", &[NAMED, must("RetentionPeriodHours", HOURS), BY_ARN, BY_ID]),
    (
        "ListShards",
        &[
            NAMED,
            may("NextToken", TOKEN),
            may("ExclusiveStartShardId", NAME),
            may("MaxResults", LIMIT),
            may("StreamCreationTimestamp", Shape::Time),
            may("ShardFilter", FILTER),
            BY_ARN,
            BY_ID,
        ],
    ),
    (
        "ListStreamConsumers",
        &[
            must("StreamARN", STREAM_ARN),
            may("NextToken", TOKEN),
            may("MaxResults", LIMIT),
            may("StreamCreationTimestamp", Shape::Time),
            BY_ID,
        ],
    ),
    ("ListStreams", &[may("Limit", LIMIT), may("ExclusiveStartStreamName", NAME), may("NextToken", TOKEN)]),
    ("ListTagsForResource", &[must("ResourceARN", RESOURCE_ARN), BY_ID]),
    (
        "ListTagsForStream",
        &[
            NAMED,
            may("ExclusiveStartTagKey", Shape::Text(1, 128, None)),
            may("Limit", Shape::Int(1, 50)),
            BY_ARN,
            BY_ID,
        ],
    ),
    ("MergeShards", &[NAMED, must("ShardToMerge", NAME), must("AdjacentShardToMerge", NAME), BY_ARN, BY_ID]),
    (
        "PutRecord",
        &[
            NAMED,
            must("Data", DATA),
            may("PartitionKey", PARTITION_KEY),
            may("ExplicitHashKey", HASH_KEY),
            may("SequenceNumberForOrdering", SEQUENCE),
            BY_ARN,
            BY_ID,
            DRY,
        ],
    ),
    ("PutRecords", &[must("Records", RECORDS), NAMED, BY_ARN, BY_ID, DRY]),
    ("PutResourcePolicy", &[must("ResourceARN", RESOURCE_ARN), BY_ID, must("Policy", ANY_TEXT)]),
    (
        "RegisterStreamConsumer",
        &[must("StreamARN", STREAM_ARN), must("ConsumerName", NAME), BY_ID, may("Tags", TAGS)],
    ),
    ("RemoveTagsFromStream", &[NAMED, must("TagKeys", TAG_KEYS), BY_ARN, BY_ID]),
    ("SplitShard", &[NAMED, must("ShardToSplit", NAME), must("NewStartingHashKey", HASH_KEY), BY_ARN, BY_ID]),
    (
        "StartStreamEncryption",
        &[NAMED, must("EncryptionType", ENCRYPTION), must("KeyId", KEY_ID), BY_ARN, BY_ID],
    ),
    (
        "StopStreamEncryption",
        &[NAMED, must("EncryptionType", ENCRYPTION), must("KeyId", KEY_ID), BY_ARN, BY_ID],
    ),
    (
        "SubscribeToShard",
        &[
            must("ConsumerARN", CONSUMER_ARN),
            BY_ID,
            must("ShardId", NAME),
            must("StartingPosition", POSITION),
            DRY,
        ],
    ),
    ("TagResource", &[must("Tags", TAGS), must("ResourceARN", RESOURCE_ARN), BY_ID]),
    ("UntagResource", &[must("TagKeys", TAG_KEYS), must("ResourceARN", RESOURCE_ARN), BY_ID]),
    ("UpdateAccountSettings", &[must("MinimumThroughputBillingCommitment", COMMITMENT)]),
    ("UpdateMaxRecordSize", &[BY_ARN, BY_ID, must("MaxRecordSizeInKiB", RECORD_KIB)]),
    (
        "UpdateShardCount",
        &[
            NAMED,
            must("TargetShardCount", POSITIVE),
            must("ScalingType", Shape::Enum(&["UNIFORM_SCALING"])),
            BY_ARN,
            BY_ID,
        ],
    ),
    (
        "UpdateStreamMode",
        &[
            must("StreamARN", STREAM_ARN),
            BY_ID,
            must("StreamModeDetails", MODE),
            may("WarmThroughputMiBps", NATURAL),
        ],
    ),
    (
        "UpdateStreamRecordDistributionStrategy",
        &[must("StreamARN", STREAM_ARN), BY_ID, must("RecordDistributionStrategy", STRATEGY)],
    ),
    ("UpdateStreamWarmThroughput", &[BY_ARN, NAMED, BY_ID, must("WarmThroughputMiBps", NATURAL)]),
];

/// An operation's name and request; `None` for one that is not there.
#[must_use]
pub fn operation(name: &str) -> Option<&'static (&'static str, &'static [Member])> {
    OPERATIONS.binary_search_by_key(&name, |(is, _)| is).ok().map(|place| &OPERATIONS[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_forty_operations_in_order() {
        assert_eq!(OPERATIONS.len(), 40);
        assert!(OPERATIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(OPERATIONS.iter().all(|(name, _)| operation(name).is_some()));
        assert!(operation("CreateQueue").is_none());
    }

    #[test]
    fn patterns_are_those_of_the_published_model() {
        assert!(is_stream_arn("arn:aws:kinesis:local-1:000000000000:stream/a.b"));
        assert!(!is_stream_arn("arn:aws:kinesis:local-1:0:stream/a"));
        assert!(is_consumer_arn("arn:aws:kinesis:r:000000000000:stream/a/consumer/c:12"));
        assert!(!is_consumer_arn("arn:aws:kinesis:r:000000000000:stream/a/consumer/c"));
        assert!(is_number("0", 39) && !is_number("01", 39) && !is_number(&"9".repeat(40), 39));
    }
}
