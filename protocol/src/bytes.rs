//! Reading and writing integers in byte strings. Pure. Everything is little-endian, said only here and in
//! [`crate::frame`]; variable-length integers are LEB128.

/// What a byte string can be wrong about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BytesError {
    /// It ends before the value does.
    #[error("ends too early at byte {at}")]
    TooShort {
        /// Offset from the start of the string.
        at: usize,
    },
    /// A variable-length integer has more than 64 bits, or is not in its shortest form.
    #[error("bad variable-length integer at byte {at}")]
    BadVarint {
        /// Offset from the start of the string.
        at: usize,
    },
}

/// Appends an unsigned LEB128 integer.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer, zigzag and LEB128.
#[inline]
pub fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// A place in a byte string that moves forward.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// At the start.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], BytesError> {
        let rest = self.rest();
        if rest.len() < len {
            return Err(BytesError::TooShort { at: self.at });
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BytesError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn u8(&mut self) -> Result<u8, BytesError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u16(&mut self) -> Result<u16, BytesError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u32(&mut self) -> Result<u32, BytesError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u64(&mut self) -> Result<u64, BytesError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u128(&mut self) -> Result<u128, BytesError> {
        self.array().map(u128::from_le_bytes)
    }

    /// An unsigned LEB128 integer in its shortest form.
    ///
    /// # Errors
    /// When it does not end, or is too long.
    #[inline]
    pub fn varint(&mut self) -> Result<u64, BytesError> {
        let start = self.at;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(byte) = self.bytes.get(self.at) else {
                return Err(BytesError::TooShort { at: start });
            };
            self.at += 1;
            let low = u64::from(byte & 0x7f);
            if (shift == 63 && low > 1) || (shift > 0 && *byte == 0) {
                return Err(BytesError::BadVarint { at: start });
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(BytesError::BadVarint { at: start })
    }

    /// A signed integer, zigzag and LEB128.
    ///
    /// # Errors
    /// As [`varint`](Self::varint).
    pub fn zigzag(&mut self) -> Result<i64, BytesError> {
        let value = self.varint()?;
        Ok(((value >> 1) as i64) ^ -((value & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_survive_the_round_trip() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(Cursor::new(&out).varint(), Ok(value));
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX, -300] {
            let mut out = Vec::new();
            put_zigzag(&mut out, value);
            assert_eq!(Cursor::new(&out).zigzag(), Ok(value));
        }
    }

    #[test]
    fn overlong_and_endless_integers_are_refused() {
        for bad in [&[0x80u8, 0x00][..], &[0xff; 10], &[0x80; 11], &[0xff, 0xff]] {
            assert!(Cursor::new(bad).varint().is_err(), "{bad:x?}");
        }
    }
}
