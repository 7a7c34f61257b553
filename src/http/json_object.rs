use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Reads the members of a JSON object in order. Unlike a map this keeps a name
/// that is given twice, so that it can be refused.
pub(super) fn members(text: &str) -> Result<Vec<(String, Value)>, serde_json::Error> {
    serde_json::from_str::<Members>(text).map(|Members(members)| members)
}

struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_given_twice_is_kept_twice() {
        let names: Vec<_> = members(r#"{"a": 1, "b": null, "a": "2"}"#).unwrap().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["a", "b", "a"]);
        for text in ["", "[]", "1", "{", r#"{"a": 1} x"#] {
            assert!(members(text).is_err(), "{text}");
        }
    }
}
