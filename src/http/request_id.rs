use axum::http::HeaderValue;

/// What a request is called, in its answer and in the log: 32 hexadecimal digits.
/// It is no secret, so it need not come from the system's random source, for which
/// the system would have to be called.
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
    fn no_two_are_the_same_and_all_are_hexadecimal() {
        let [one, other] = [RequestId::new(), RequestId::new()];
        assert_ne!(one.as_str(), other.as_str());
        assert!(one.as_str().len() == 32 && u128::from_str_radix(one.as_str(), 16).is_ok());
        assert_eq!(one.header(), one.as_str());
    }
}
