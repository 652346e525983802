//! Compression of the records of a batch.

use std::io::{Read, Write};

use super::snappy;
use crate::limits::ZSTD_WINDOW_LOG_MAX;
use crate::{KafkaFault, Result};

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum KafkaCodec {
    /// Not at all.
    #[default]
    None = 0,
    /// gzip.
    Gzip = 1,
    /// Snappy; read only.
    Snappy = 2,
    /// LZ4 frames.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl KafkaCodec {
    /// The codec that the attributes of a batch name.
    ///
    /// # Errors
    /// [`KafkaFault::UnknownCodec`].
    pub fn of(attributes: i16) -> Result<KafkaCodec> {
        match attributes & 7 {
            0 => Ok(KafkaCodec::None),
            1 => Ok(KafkaCodec::Gzip),
            2 => Ok(KafkaCodec::Snappy),
            3 => Ok(KafkaCodec::Lz4),
            4 => Ok(KafkaCodec::Zstd),
            other => Err(KafkaFault::UnknownCodec(other as u8)),
        }
    }

    /// Decompresses at most `most` bytes.
    ///
    /// # Errors
    /// [`KafkaFault::TooLarge`] for more, [`KafkaFault::Compression`] for what is not compressed so.
    pub fn decompress(self, input: &[u8], most: usize) -> Result<Vec<u8>> {
        match self {
            KafkaCodec::None if input.len() > most => Err(KafkaFault::TooLarge),
            KafkaCodec::None => Ok(input.to_vec()),
            KafkaCodec::Gzip => all(flate2::read::MultiGzDecoder::new(input), input.len(), most),
            KafkaCodec::Snappy => snappy::decompress(input, most),
            KafkaCodec::Lz4 => all(lz4_flex::frame::FrameDecoder::new(input), input.len(), most),
            KafkaCodec::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(input);
                let mut decoder = decoder.map_err(|_| KafkaFault::Compression)?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG_MAX)
                    .map_err(|_| KafkaFault::Compression)?;
                all(decoder, input.len(), most)
            }
        }
    }

    /// Appends `input` compressed. Snappy is not written: its records go out as they are.
    pub(super) fn compress(self, input: &[u8], out: &mut Vec<u8>) {
        let begin = out.len();
        let written = match self {
            KafkaCodec::None | KafkaCodec::Snappy => out.write_all(input).map(drop),
            KafkaCodec::Gzip => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(&mut *out, level);
                encoder
                    .write_all(input)
                    .and_then(|()| encoder.finish().map(drop))
            }
            KafkaCodec::Lz4 => {
                // Java reads only frames whose blocks stand alone.
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_mode(lz4_flex::frame::BlockMode::Independent)
                    .block_size(lz4_flex::frame::BlockSize::Max64KB);
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, &mut *out);
                encoder.write_all(input).and_then(|()| {
                    let finished = encoder.finish().map(drop);
                    finished.map_err(std::io::Error::other)
                })
            }
            KafkaCodec::Zstd => zstd::stream::copy_encode(input, &mut *out, 1),
        };
        // Writing to memory does not fail.
        debug_assert!(written.is_ok() && out.len() > begin, "{written:?}");
    }

    /// Whether batches can be written with it.
    pub(super) fn written(self) -> KafkaCodec {
        match self {
            KafkaCodec::Snappy => KafkaCodec::None,
            other => other,
        }
    }
}

/// Everything that a decoder gives; grows with what comes, not with what is announced.
fn all(decoder: impl Read, compressed: usize, most: usize) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(compressed.saturating_mul(4).min(most));
    let bound = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    decoder
        .take(bound)
        .read_to_end(&mut out)
        .map_err(|_| KafkaFault::Compression)?;
    match out.len() > most {
        true => Err(KafkaFault::TooLarge),
        false => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_read_and_has_a_bound() {
        let text: Vec<u8> = (0..200_000_u32).map(|n| (n / 7) as u8).collect();
        for codec in [
            KafkaCodec::None,
            KafkaCodec::Gzip,
            KafkaCodec::Lz4,
            KafkaCodec::Zstd,
        ] {
            let mut out = Vec::new();
            codec.compress(&text, &mut out);
            assert_eq!(codec.decompress(&out, text.len()).as_ref(), Ok(&text));
            let refused = codec.decompress(&out, text.len() - 1);
            assert_eq!(refused, Err(KafkaFault::TooLarge), "{codec:?}");
            if codec != KafkaCodec::None {
                assert!(codec.decompress(&out[..out.len() / 2], text.len()).is_err());
                assert!(codec.decompress(b"nothing of the kind", 1000).is_err());
            }
        }
        assert!(KafkaCodec::of(5).is_err());
    }
}
