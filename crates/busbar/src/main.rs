//! The command line and the process.
mod bench;

fn main() {
    #[derive(clap::Parser)]
    struct A {
        #[command(flatten)]
        b: bench::BenchArgs,
    }
    let a = <A as clap::Parser>::parse();
    if let Err(e) = bench::run(&a.b) {
        eprintln!("{e}");
    }
}
