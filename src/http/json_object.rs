use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// Parses the members of a JSON object in order. Unlike a map it keeps repeated names, so that the caller
/// can refuse them.
pub(super) fn object_members(text: &str) -> Result<Vec<(String, Value)>, serde_json::Error> {
    serde_json::from_str::<JsonMembers>(text).map(|JsonMembers(members)| members)
}

struct JsonMembers(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for JsonMembers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = JsonMembers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonMembers, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(JsonMembers(members))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_are_kept() {
        let names: Vec<_> =
            object_members(r#"{"a": 1, "b": null, "a": "2"}"#).unwrap().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["a", "b", "a"]);
        for text in ["", "[]", "1", "{", r#"{"a": 1} x"#] {
            assert!(object_members(text).is_err(), "{text}");
        }
    }
}
