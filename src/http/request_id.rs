use axum::http::HeaderValue;

/// The id of a request in its response and in the log: 32 hexadecimal digits. It is not a secret, so a
/// fast generator is enough, which saves a system call.
pub(super) struct RequestId([u8; Self::DIGITS]);

impl RequestId {
    const DIGITS: usize = 32;

    pub(super) fn new() -> Self {
        let mut digits = [0; Self::DIGITS];
        let mut rest = fastrand::u128(..);
        for digit in &mut digits {
            *digit = match (rest & 0xf) as u8 {
                small @ 0..=9 => b'0' + small,
                large => b'a' + large - 10,
            };
            rest >>= 4;
        }
        Self(digits)
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.0).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_hexadecimal() {
        let [one, other] = [RequestId::new(), RequestId::new()];
        assert_ne!(one.as_str(), other.as_str());
        assert!(one.as_str().len() == 32 && u128::from_str_radix(one.as_str(), 16).is_ok());
        assert_eq!(one.header(), one.as_str());
    }
}
