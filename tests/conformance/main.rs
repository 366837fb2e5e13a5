//! Real clients of the Kinesis API against a real store: what each promises is in the script beside this file.
//!
//! Needs Python with `tests/requirements.txt` in `.venv`, Node with the packages of `node` and `players`, Debian's Chromium,
//! and Go with Debian's packages of the SDKs, all of which `tests/all` installs; otherwise it says that it was skipped.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tests::harness::process::{StoreProcess, binaries_are_there, binary, free_port};

mod sdk;

fn run(program: &str, home: &Path, arguments: &[&str], plain: u16, store: &StoreProcess) {
    let data = home.join("data");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let installed = root.join(".venv/bin").join(program);
    let name = if installed.exists() { installed } else { program.into() };
    let output = Command::new(&name)
        .args(arguments)
        .current_dir(root.join("tests/conformance"))
        .env("KINESIN_DATA", &data)
        .env("KINESIN_ENDPOINT", format!("https://localhost:{}", store.address.port()))
        .env("KINESIN_PLAIN", format!("http://127.0.0.1:{plain}"))
        .env("AWS_SHARED_CREDENTIALS_FILE", data.join("admin.credentials"))
        .env("AWS_CA_BUNDLE", data.join("ca.pem"))
        .env("NODE_EXTRA_CA_CERTS", data.join("ca.pem"))
        .env("AWS_REGION", "local-1")
        .env("GOPATH", "/usr/share/gocode")
        .env("GO111MODULE", "off")
        .env("KINESIN", binary("kinesin").expect("the program"))
        .output()
        .expect("the client starts");
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
}

fn skipped() -> bool {
    let skipped = std::env::var_os("KINESIN_TESTS_ALL").is_none() || !binaries_are_there();
    if skipped {
        println!("skipped: tests/all installs the clients and runs this");
    }
    skipped
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_of_the_service_get_the_answers_they_know() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let plain = free_port().expect("a port");
    let address = format!("127.0.0.1:{plain}");
    let mut store = StoreProcess::start(home.path(), &["--insecure-http", &address]).await.expect("a store");
    let url = format!("https://localhost:{}", store.address.port());
    run("aws", home.path(), &["--endpoint-url", &url, "kinesis", "list-streams"], plain, &store);
    // A second account: a profile more, and a new start.
    let other =
        "\n[other]\naws_access_key_id = OTHER\naws_secret_access_key = o\naws_account_id = 123456789012\n";
    let file = std::fs::File::options().append(true).open(home.path().join("data/admin.credentials"));
    file.and_then(|mut file| file.write_all(other.as_bytes())).expect("a file of keys");
    store.kill().expect("a store that can be killed");
    store.up().await.expect("the store again");
    run("python", home.path(), &["boto.py"], plain, &store);
    run("python", home.path(), &["model.py"], plain, &store);
    run("python", home.path(), &["cli.py"], plain, &store);
    run("python", home.path(), &["histories.py"], plain, &store);
    run("python", home.path(), &["wire.py"], plain, &store);
    run("python", home.path(), &["kpl.py"], plain, &store);
    run("python", home.path(), &["kvs.py"], plain, &store);
    let credentials = std::fs::read_to_string(home.path().join("data/admin.credentials")).expect("the keys");
    for http2 in [false, true] {
        Box::pin(sdk::run(SocketAddr::from(([127, 0, 0, 1], plain)), http2, &credentials)).await;
    }
    run("node", home.path(), &["node/kinesis.mjs"], plain, &store);
    run("go", home.path(), &["run", "go/kinesis.go"], plain, &store);
}

/// Chromium with hls.js, dash.js and by itself, and mp4box.js: what is shown and counted is what was filmed.
#[tokio::test(flavor = "multi_thread")]
async fn players_show_the_pictures_that_were_filmed() {
    if skipped() {
        return;
    }
    let home = tempfile::tempdir().expect("a folder");
    let plain = free_port().expect("a port");
    let address = format!("127.0.0.1:{plain}");
    let store = StoreProcess::start(home.path(), &["--insecure-http", &address]).await.expect("a store");
    run("node", home.path(), &["players/players.mjs"], plain, &store);
}
