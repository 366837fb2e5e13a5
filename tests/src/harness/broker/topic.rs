//! Topic names and filters (MQTT 3.1.1 section 4.7). Pure: strings in, answers out.

/// The longest topic or filter that is accepted, in bytes.
const MAX_LEN: usize = 4096;

/// Whether a message may be published to this topic.
pub(super) fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= MAX_LEN && !topic.contains(['+', '#', '\0'])
}

/// Whether this can be subscribed to: wildcards take a whole level, `#` only the last one.
pub(super) fn is_filter(filter: &str) -> bool {
    if filter.is_empty() || filter.len() > MAX_LEN || filter.contains('\0') {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.contains(['+', '#']);
        if wild && level.len() != 1 || level == "#" && levels.peek().is_some() {
            return false;
        }
    }
    true
}

/// Whether a (valid) filter takes in a (valid) topic. A leading wildcard does not match a topic that begins with `$`.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic_levels = topic.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match topic_levels.next() {
            Some(name) if level == "+" || level == name => {}
            _ => return false,
        }
    }
    topic_levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_matches_the_topics_that_the_standard_says_it_does() {
        let table = [
            ("a/b/c", "a/b/c", true),
            ("a/b/c", "a/b", false),
            ("a/b", "a/b/c", false),
            ("a/+/c", "a/b/c", true),
            ("a/+", "a/b/c", false),
            ("a/+", "a/", true),
            ("+", "a", true),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("+", "/a", false),
            ("#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("trucks/+/telemetry", "trucks/\u{e9}/telemetry", true),
            ("+", "\u{e9}", true),
        ];
        for (filter, topic, want) in table {
            assert_eq!(matches(filter, topic), want, "{filter} against {topic}");
        }
    }

    #[test]
    fn malformed_filters_and_topics_are_recognised() {
        for filter in ["", "a#", "a/#/b", "+a", "a/b+", "##", "\0"] {
            assert!(!is_filter(filter), "{filter:?}");
        }
        for filter in ["#", "+", "a/+/#", "/", "a//b"] {
            assert!(is_filter(filter), "{filter:?}");
        }
        assert!(is_topic("a/b") && !is_topic("a/+") && !is_topic("a/#") && !is_topic(""));
    }
}
