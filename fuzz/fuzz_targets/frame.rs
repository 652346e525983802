//! Frames: any bytes are refused with a reason or are a whole frame; and so they are when their
//! checksum has been made right, so that what stands behind it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = busbar_log::check_frame(data);
    if data.len() < 64 {
        return;
    }
    let mut data = data.to_vec();
    data[..4].copy_from_slice(b"BBFR");
    data[12] = 1;
    let header = (usize::from(u16::from_le_bytes([data[20], data[21]])) * 64).clamp(64, data.len());
    let crc = busbar_log::crc32c(&data[8..header]);
    data[4..8].copy_from_slice(&crc.to_le_bytes());
    let _ = busbar_log::check_frame(&data);
});
