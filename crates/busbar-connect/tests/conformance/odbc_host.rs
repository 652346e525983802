//! This program as the worker with the ODBC drivers. Its argument is the name of this module, so that it is started as the node
//! starts itself; no other test may be here.

use std::process::ExitCode;

use busbar_connect::{ODBC_HOST, run_odbc_host};

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the worker ends before the other tests would run"
)]
fn it_is_the_worker_where_it_is_asked_to_be() {
    if std::env::args().nth(1).as_deref() == Some(ODBC_HOST) {
        let ended = run_odbc_host();
        std::process::exit(i32::from(ended != ExitCode::SUCCESS));
    }
    // The node starts it as that, and no connection of the other tests would be without it.
    assert!(module_path!().ends_with(ODBC_HOST));
}
