//! What a caller gives an API, checked against the parameters that its file declares.

use busbar_event::format::{FieldSpec, FieldType};
use busbar_event::{Class, Error, time};
use busbar_sql::BoundParameter;
use serde_json::{Map, Value as Json};

/// The values of all parameters; null for those that were left out.
#[derive(Debug, PartialEq)]
pub(crate) struct GivenParameters(pub(crate) Map<String, Json>);

impl GivenParameters {
    /// The parameters in the query of a URL.
    ///
    /// # Errors
    /// One that is unknown, given twice, missing or of another type.
    pub(crate) fn from_url(
        fields: &[FieldSpec],
        pairs: Vec<(String, String)>,
    ) -> Result<GivenParameters, Error> {
        let mut given = Map::new();
        for (name, text) in pairs {
            let field = find(fields, &name)?;
            let value = match field.field_type {
                FieldType::Text | FieldType::Time => Json::String(text),
                _ => serde_json::from_str(&text).map_err(|_| wrong(field))?,
            };
            if given.insert(name, value).is_some() {
                return Err(twice(field));
            }
        }
        GivenParameters::checked(fields, given)
    }

    /// The parameters in a body.
    ///
    /// # Errors
    /// A body that is no JSON object, and as [`GivenParameters::from_url`].
    pub(crate) fn from_body(fields: &[FieldSpec], body: &[u8]) -> Result<GivenParameters, Error> {
        let given = match body.trim_ascii() {
            [] => Map::new(),
            body => serde_json::from_slice(body)
                .map_err(|_| Error::new(Class::Permanent, "server.api-body"))?,
        };
        if let Some(name) = given.keys().find(|name| find(fields, name).is_err()) {
            find(fields, name)?;
        }
        GivenParameters::checked(fields, given)
    }

    /// The parameters of these values, of which each has the name of a parameter.
    ///
    /// # Errors
    /// As [`GivenParameters::from_url`].
    pub(crate) fn checked(
        fields: &[FieldSpec],
        mut given: Map<String, Json>,
    ) -> Result<GivenParameters, Error> {
        let mut all = Map::new();
        for field in fields {
            let value = given.remove(&field.name).unwrap_or(Json::Null);
            if value.is_null() && field.required {
                let error = Error::new(Class::Permanent, "server.api-parameter-missing");
                return Err(error.with("name", &field.name));
            }
            all.insert(field.name.clone(), fitting(field, value)?);
        }
        Ok(GivenParameters(all))
    }

    /// The values for a query.
    pub(crate) fn bound(&self, fields: &[FieldSpec]) -> Vec<BoundParameter> {
        let bound = fields.iter().map(|field| {
            let value = match &self.0[&field.name] {
                Json::Null => None,
                Json::String(text) if field.field_type != FieldType::Json => Some(text.clone()),
                // With a fraction or an exponent, so that SQL takes it for a float.
                Json::Number(number) if field.field_type == FieldType::Float => {
                    number.as_f64().map(|number| format!("{number:?}"))
                }
                other => Some(other.to_string()),
            };
            BoundParameter {
                name: field.name.clone(),
                field_type: field.field_type,
                value,
            }
        });
        bound.collect()
    }
}

/// The name of a type in files.
pub(crate) fn type_name(field_type: FieldType) -> &'static str {
    match field_type {
        FieldType::Bool => "bool",
        FieldType::Int => "int",
        FieldType::Float => "float",
        FieldType::Text => "text",
        FieldType::Time => "time",
        FieldType::Json => "json",
    }
}

/// The parameter of this name.
pub(crate) fn find<'a>(fields: &'a [FieldSpec], name: &str) -> Result<&'a FieldSpec, Error> {
    fields
        .iter()
        .find(|field| field.name == name)
        .ok_or_else(|| {
            let name = busbar_event::quote(name);
            if fields.is_empty() {
                return Error::new(Class::Permanent, "server.api-parameters-none")
                    .with("name", name);
            }
            let known: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
            Error::new(Class::Permanent, "server.api-parameter-unknown")
                .with("name", name)
                .with("known", known.join(", "))
        })
}

fn fitting(field: &FieldSpec, value: Json) -> Result<Json, Error> {
    let fits = match (&value, field.field_type) {
        (Json::Null, _) | (_, FieldType::Json) => true,
        (Json::Bool(_), FieldType::Bool) | (Json::String(_), FieldType::Text) => true,
        (Json::Number(number), FieldType::Int) => number.as_i64().is_some(),
        (Json::Number(number), FieldType::Float) => number.as_f64().is_some_and(f64::is_finite),
        (Json::String(text), FieldType::Time) => {
            let micros = time::parse(text).filter(|micros| time::is_written(*micros));
            // In one form, whatever form the caller wrote.
            return micros
                .map(|micros| time::text(micros).into())
                .ok_or_else(|| wrong(field));
        }
        _ => false,
    };
    match fits {
        true => Ok(value),
        false => Err(wrong(field)),
    }
}

/// A value is not of the parameter's type.
pub(crate) fn wrong(field: &FieldSpec) -> Error {
    Error::new(Class::Permanent, "server.api-parameter")
        .with("name", &field.name)
        .with("type", type_name(field.field_type))
}

/// A parameter is given twice.
pub(crate) fn twice(field: &FieldSpec) -> Error {
    Error::new(Class::Permanent, "server.api-parameter-twice").with("name", &field.name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> Vec<FieldSpec> {
        let field = |name: &str, field_type, required| FieldSpec {
            name: name.to_owned(),
            field_type,
            path: None,
            unit: None,
            required,
        };
        vec![
            field("site", FieldType::Text, true),
            field("n", FieldType::Int, false),
            field("f", FieldType::Float, false),
            field("t", FieldType::Time, false),
            field("j", FieldType::Json, false),
        ]
    }

    #[test]
    fn url_and_body_say_the_same() {
        let fields = fields();
        let pairs = [
            ("site", "7"),
            ("n", "-5"),
            ("f", "2"),
            ("t", "2026-03-01T08:00:00+08:00"),
        ];
        let pairs = pairs.map(|(name, text)| (name.to_owned(), text.to_owned()));
        let url = GivenParameters::from_url(&fields, pairs.to_vec()).unwrap();
        let body = br#"{"site":"7","n":-5,"f":2,"t":"2026-03-01T00:00:00Z","j":null}"#;
        assert_eq!(url, GivenParameters::from_body(&fields, body).unwrap());
        assert_eq!(url.0["site"], json!("7"));
        let bound = url.bound(&fields);
        let values: Vec<_> = bound.iter().map(|p| p.value.as_deref()).collect();
        let time = Some("2026-03-01T00:00:00.000000Z");
        assert_eq!(values, [Some("7"), Some("-5"), Some("2.0"), time, None]);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let fields = fields();
        for (body, code) in [
            (r#"{"n":1}"#, "server.api-parameter-missing"),
            (r#"{"site":null}"#, "server.api-parameter-missing"),
            (r#"{"site":"a","sit":1}"#, "server.api-parameter-unknown"),
            (r#"{"site":1}"#, "server.api-parameter"),
            (r#"{"site":"a","n":1.5}"#, "server.api-parameter"),
            (
                r#"{"site":"a","n":9223372036854775808}"#,
                "server.api-parameter",
            ),
            (r#"{"site":"a","t":"tomorrow"}"#, "server.api-parameter"),
            (r#"["a"]"#, "server.api-body"),
            ("{", "server.api-body"),
        ] {
            let refused = GivenParameters::from_body(&fields, body.as_bytes()).unwrap_err();
            assert_eq!(refused.code(), code, "{body}");
        }
        let twice = ["a", "b"].map(|text| ("site".to_owned(), text.to_owned()));
        let refused = GivenParameters::from_url(&fields, twice.to_vec()).unwrap_err();
        assert_eq!(refused.code(), "server.api-parameter-twice");
    }
}
