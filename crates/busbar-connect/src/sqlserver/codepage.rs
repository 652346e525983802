//! In which encoding a collation keeps texts of `char`, `varchar` and `text`.

use encoding_rs::Encoding;

/// The encoding of a collation, as the server sends it with a column.
pub fn of(collation: [u8; 5]) -> &'static Encoding {
    let about = u32::from_le_bytes([collation[0], collation[1], collation[2], collation[3]]);
    const UTF_8: u32 = 1 << 26;
    if about & UTF_8 != 0 {
        return encoding_rs::UTF_8;
    }
    // A collation that is older than Windows' own has a number beside.
    match collation[4] {
        0 => by_language(about & 0xf_ffff),
        80..=96 => encoding_rs::WINDOWS_1250,
        104..=108 => encoding_rs::WINDOWS_1251,
        112..=124 => encoding_rs::WINDOWS_1253,
        128..=130 => encoding_rs::WINDOWS_1254,
        136..=138 => encoding_rs::WINDOWS_1255,
        144..=146 => encoding_rs::WINDOWS_1256,
        152..=160 => encoding_rs::WINDOWS_1257,
        192 | 193 | 200 => encoding_rs::SHIFT_JIS,
        194 | 195 | 201 => encoding_rs::EUC_KR,
        196 | 197 | 202 => encoding_rs::BIG5,
        198 | 199 | 203 => encoding_rs::GBK,
        204..=206 => encoding_rs::WINDOWS_874,
        _ => encoding_rs::WINDOWS_1252,
    }
}

fn by_language(language: u32) -> &'static Encoding {
    match language & 0xffff {
        0x0804 | 0x1004 => encoding_rs::GBK,
        0x0404 | 0x0c04 | 0x1404 => encoding_rs::BIG5,
        0x0411 => encoding_rs::SHIFT_JIS,
        0x0412 => encoding_rs::EUC_KR,
        0x041e => encoding_rs::WINDOWS_874,
        0x042a => encoding_rs::WINDOWS_1258,
        0x0405 | 0x040e | 0x0415 | 0x0418 | 0x041a | 0x041b | 0x041c | 0x0424 | 0x0442 => {
            encoding_rs::WINDOWS_1250
        }
        0x0402 | 0x0419 | 0x0422 | 0x0423 | 0x042f | 0x043f | 0x0444 | 0x0450 | 0x0c1a => {
            encoding_rs::WINDOWS_1251
        }
        0x0408 => encoding_rs::WINDOWS_1253,
        0x041f | 0x042c | 0x0443 => encoding_rs::WINDOWS_1254,
        0x040d => encoding_rs::WINDOWS_1255,
        0x0401 | 0x0420 | 0x0429 | 0x0480 => encoding_rs::WINDOWS_1256,
        0x0425..=0x0427 => encoding_rs::WINDOWS_1257,
        _ => encoding_rs::WINDOWS_1252,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collations_have_their_encodings() {
        for (collation, expected) in [
            // Chinese_PRC_CI_AS
            ([0x04, 0x08, 0xd0, 0x00, 0x00], "GBK"),
            // SQL_Latin1_General_CP1_CI_AS
            ([0x09, 0x04, 0xd0, 0x00, 0x34], "windows-1252"),
            // Latin1_General_100_CI_AS_SC_UTF8
            ([0x09, 0x04, 0xd0, 0x24, 0x00], "UTF-8"),
            // Japanese_CI_AS
            ([0x11, 0x04, 0xd0, 0x00, 0x00], "Shift_JIS"),
            // Cyrillic_General_CI_AS
            ([0x19, 0x04, 0xd0, 0x00, 0x00], "windows-1251"),
        ] {
            assert_eq!(of(collation).name(), expected);
        }
    }
}
