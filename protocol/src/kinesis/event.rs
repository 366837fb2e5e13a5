//! Frames of an event stream (`application/vnd.amazon.eventstream`): total length, length of the headers, CRC-32 of
//! these two, headers, payload, CRC-32 of everything before; big-endian. Pure.

/// Appends a frame.
#[expect(clippy::big_endian_bytes, reason = "the format is big-endian")]
pub fn put(headers: &[(&str, &str)], payload: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let headers_len: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let total = 12 + headers_len + payload.len() + 4;
    out.extend_from_slice(&(total as u32).to_be_bytes());
    out.extend_from_slice(&(headers_len as u32).to_be_bytes());
    out.extend_from_slice(&crc32(&out[start..]).to_be_bytes());
    for (name, value) in headers {
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.push(7);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(payload);
    out.extend_from_slice(&crc32(&out[start..]).to_be_bytes());
}

/// An event with a payload of this type.
pub fn put_event(kind: &str, content_type: &str, payload: &[u8], out: &mut Vec<u8>) {
    let headers = [(":event-type", kind), (":content-type", content_type), (":message-type", "event")];
    put(&headers, payload, out);
}

/// The end of a stream that did not end well.
pub fn put_exception(kind: &str, content_type: &str, payload: &[u8], out: &mut Vec<u8>) {
    let headers =
        [(":exception-type", kind), (":content-type", content_type), (":message-type", "exception")];
    put(&headers, payload, out);
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut place = 0;
    while place < 256 {
        let (mut value, mut bit) = (place as u32, 0);
        while bit < 8 {
            value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[place] = value;
        place += 1;
    }
    table
};

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| TABLE[((sum ^ u32::from(*byte)) & 255) as usize] ^ sum >> 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_frames_come_out() {
        // The smallest message of the format's test vectors: no headers, no payload.
        let mut out = Vec::new();
        put(&[], b"", &mut out);
        assert_eq!(out, [0, 0, 0, 16, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff]);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
