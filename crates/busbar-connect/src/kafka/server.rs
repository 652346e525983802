//! Where a cluster is, who asks, and the questions about the cluster as a whole.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use busbar_event::{Class, Error};
use busbar_kafka::message::{
    CoordinatorRequest, FoundCoordinator, MetadataRequest, MetadataResponse,
};
use busbar_kafka::{Api, KafkaCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::failure::{KafkaDoing, refused};
use super::limits::{RETRY_FIRST, RETRY_LAST};
use super::link::KafkaLink;
use crate::places::Places;
use crate::tls::{self, ClientPem, Tls};

/// A cluster.
pub struct KafkaServer {
    /// Brokers that are asked where the others are.
    pub brokers: Vec<Arc<str>>,
    pub tls: Option<KafkaTls>,
    pub proof: Option<KafkaProof>,
    /// How long a request may take.
    pub timeout: Duration,
    /// Where files of the project are.
    pub project: Arc<Path>,
    pub places: Places,
    /// Made of the files once.
    pub encryption: OnceCell<Arc<rustls::ClientConfig>>,
}

/// Who asks, and how it is proved.
pub struct KafkaProof {
    pub mechanism: Mechanism,
    pub user: String,
    pub password: String,
}

/// Encryption of a connection to Kafka.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    /// A PEM file with the authorities to trust in place of the usual ones: inside the project's folder, or in one that
    /// `[files] allow` names.
    pub ca: Option<String>,
    /// A PEM file with the certificate that says who Busbar is, and those of its authorities; needs `key`.
    pub certificate: Option<String>,
    /// A PEM file with the key of the certificate.
    pub key: Option<String>,
}

/// How it is proved who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mechanism {
    /// The password itself, which belongs behind TLS only.
    #[serde(rename = "plain")]
    Plain,
    /// SCRAM with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// SCRAM with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl Mechanism {
    /// As Kafka names it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl KafkaServer {
    /// What a connection is encrypted with; `None` without encryption.
    ///
    /// # Errors
    /// *Configuration*: a file cannot be read, or holds no certificate or key.
    pub async fn tls(&self) -> Result<Option<Arc<rustls::ClientConfig>>, Error> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let made = self.encryption.get_or_try_init(|| async {
            let authorities = Tls { ca: tls.ca.clone() };
            let pem = match (&tls.certificate, &tls.key) {
                (Some(certificate), Some(key)) => Some(ClientPem {
                    certificate: certificate.clone(),
                    key: key.clone(),
                }),
                _ => None,
            };
            tls::client_config_as(&authorities, pem, &self.project, &self.places).await
        });
        made.await.map(|config| Some(Arc::clone(config)))
    }

    /// What errors name.
    pub fn doing<'a>(&'a self, address: &'a str) -> KafkaDoing<'a> {
        KafkaDoing {
            address,
            user: self.user(),
            resource: "--cluster",
            operation: "Describe",
        }
    }

    /// Who asks, as Kafka names them.
    pub fn user(&self) -> &str {
        self.proof.as_ref().map_or("ANONYMOUS", |proof| &proof.user)
    }

    /// The brokers as text.
    pub fn addresses(&self) -> String {
        self.brokers.join(", ")
    }

    /// A connection to the first of the named brokers that answers, beginning with one by chance.
    ///
    /// # Errors
    /// As [`KafkaLink::open`]: what was wrong with the last one, or with the first one that somebody must repair.
    pub async fn any(&self) -> Result<KafkaLink, Error> {
        let mut seed = [0];
        // Without chance the first one is asked first.
        let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut seed);
        let mut last = None;
        for at in 0..self.brokers.len() {
            let at = (at + usize::from(seed[0])) % self.brokers.len();
            match KafkaLink::open(self, &self.brokers[at]).await {
                Ok(link) => return Ok(link),
                Err(error) if error.class() == Class::Transient => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Class::Configuration, "kafka.brokers")))
    }

    /// Brokers and topics; all topics where none are named.
    ///
    /// # Errors
    /// As [`KafkaLink::receive`].
    pub async fn metadata(
        &self,
        link: &mut KafkaLink,
        topics: Option<&[String]>,
    ) -> Result<MetadataResponse, Error> {
        let request = MetadataRequest { topics };
        let answer = link.call(Api::Metadata, |w, version| request.write(w, version));
        answer.await?.read(MetadataResponse::read)
    }

    /// A connection to the coordinator of a group.
    ///
    /// # Errors
    /// As [`KafkaServer::coordinator`].
    pub async fn coordinator_link(&self, group: &str) -> Result<KafkaLink, Error> {
        let mut any = self.any().await?;
        let (_, address) = self.coordinator(&mut any, group, false).await?;
        KafkaLink::open(self, &address).await
    }

    /// Where the coordinator of a group or a transactional id is. Waits while it is being made.
    ///
    /// # Errors
    /// As [`KafkaLink::receive`], and what the broker refuses.
    pub async fn coordinator(
        &self,
        link: &mut KafkaLink,
        key: &str,
        transaction: bool,
    ) -> Result<(i32, Arc<str>), Error> {
        let request = CoordinatorRequest { key, transaction };
        let until = tokio::time::Instant::now() + self.timeout;
        let mut pause = RETRY_FIRST;
        loop {
            let asked = link.call(Api::FindCoordinator, |w, version| request.write(w, version));
            let answer = asked.await?;
            let found = answer.read(|r, _| FoundCoordinator::read(r))?;
            match found.code {
                KafkaCode::NONE => return Ok((found.id, address_of(found.host, found.port))),
                code if code.is_retriable() && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                }
                code => {
                    let kind = if transaction {
                        "--transactional-id"
                    } else {
                        "--group"
                    };
                    let resource = format!("{kind} '{key}'");
                    let doing = KafkaDoing {
                        resource: &resource,
                        ..self.doing(&link.address)
                    };
                    return Err(refused(code, doing));
                }
            }
        }
    }
}

/// Host and port as one text.
pub fn address_of(host: &str, port: i32) -> Arc<str> {
    match host.contains(':') {
        true => format!("[{host}]:{port}").into(),
        false => format!("{host}:{port}").into(),
    }
}
