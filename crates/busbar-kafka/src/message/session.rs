//! Which versions a broker knows, and proving who one is.

use crate::{KafkaCode, KafkaReader, KafkaWriter, Result};

/// The versions of a request that a broker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    /// The request's number.
    pub api: i16,
    /// The oldest version.
    pub least: i16,
    /// The newest version.
    pub most: i16,
}

/// The answer to a question for versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionsResponse {
    /// What is wrong; for [`KafkaCode::UNSUPPORTED_VERSION`] the question is repeated in version 0.
    pub code: KafkaCode,
    /// What the broker knows.
    pub apis: Vec<ApiRange>,
}

/// Writes a question for versions.
pub fn write_versions(w: &mut KafkaWriter<'_>, version: i16, software: &str, number: &str) {
    if version >= 3 {
        w.text(software);
        w.text(number);
        w.tags();
    }
}

impl VersionsResponse {
    /// Reads the answer. A broker that does not know the version answers in version 0.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read(r: &mut KafkaReader<'_>, version: i16) -> Result<VersionsResponse> {
        let code = KafkaCode(r.i16()?);
        let mut r = match code {
            KafkaCode::UNSUPPORTED_VERSION => KafkaReader::new(r.rest(), false),
            _ => *r,
        };
        let apis = r.each(6, |r| {
            let range = ApiRange {
                api: r.i16()?,
                least: r.i16()?,
                most: r.i16()?,
            };
            if version >= 3 && code != KafkaCode::UNSUPPORTED_VERSION {
                r.tags()?;
            }
            Ok(range)
        })?;
        Ok(VersionsResponse { code, apis })
    }
}

/// Writes bytes of a mechanism.
pub fn write_sasl(w: &mut KafkaWriter<'_>, bytes: &[u8]) {
    w.bytes(bytes);
    w.tags();
}

/// The answer to a mechanism's name or bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslAnswer {
    /// What is wrong.
    pub code: KafkaCode,
    /// What the broker says about it; the mechanisms that it knows, after a name that it does not know.
    pub said: String,
    /// Bytes of the mechanism.
    pub bytes: Vec<u8>,
}

impl SaslAnswer {
    /// Reads the answer to a mechanism's name.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read_mechanisms(r: &mut KafkaReader<'_>) -> Result<SaslAnswer> {
        let code = KafkaCode(r.i16()?);
        let known = r.each(2, KafkaReader::text)?;
        Ok(SaslAnswer {
            code,
            said: known.join(", "),
            bytes: Vec::new(),
        })
    }

    /// Reads the answer to a mechanism's bytes.
    ///
    /// # Errors
    /// [`crate::KafkaFault`].
    pub fn read(r: &mut KafkaReader<'_>) -> Result<SaslAnswer> {
        let code = KafkaCode(r.i16()?);
        let said = r.nullable_text()?.unwrap_or_default().to_owned();
        let bytes = r.nullable_bytes()?.unwrap_or_default().to_vec();
        Ok(SaslAnswer { code, said, bytes })
    }
}
