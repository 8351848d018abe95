//! `deploy/kubernetes` on a real Kubernetes API with admission and etcd, but without nodes: no pod runs.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    time::Instant,
};

use serde_json::json;
use serde_yaml::{Value, from_str, to_string};

use crate::{
    deploy::run_documented,
    support::{Authority, Backend, Process, RedisServer, Service, eventually, free_port, run},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The token of a client with all rights.
const TOKEN: &str = "administrator";

struct Kubernetes {
    server: String,
    _api: Process,
    _etcd: Process,
    _directory: tempfile::TempDir,
}

impl Kubernetes {
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with further arguments for the API server.
    fn start_with(arguments: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let [etcd_port, peer_port, port] = [free_port(), free_port(), free_port()];
        let spawn = |program: &str, arguments: &[String]| {
            Process::spawn(Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()))
        };

        let [client, peer] = [etcd_port, peer_port].map(|port| format!("http://127.0.0.1:{port}"));
        let etcd = [
            format!("--data-dir={}", path("etcd")),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            // Data need not survive.
            "--unsafe-no-fsync".into(),
        ];
        let etcd = spawn("etcd", &etcd);

        let openssl = ["genpkey", "-algorithm", "RSA", "-out", &path("accounts.pem")].map(str::to_owned);
        assert!(run(Command::new("openssl").args(openssl), "").status.success());
        fs::write(path("tokens.csv"), format!("{TOKEN},administrator,1,system:masters\n")).unwrap();
        let api = [
            format!("--etcd-servers={client}"),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".into(),
            format!("--cert-dir={}", path("certificates")),
            format!("--token-auth-file={}", path("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", path("accounts.pem")),
            format!("--service-account-signing-key-file={}", path("accounts.pem")),
        ];
        let api = spawn(&format!("{ROOT}/target/kubernetes/kube-apiserver"), &[&api, arguments].concat());
        let server = format!("https://127.0.0.1:{port}");
        let kubernetes = Self { server, _api: api, _etcd: etcd, _directory: directory };
        eventually("Kubernetes is ready", || kubernetes.kubectl(&["get", "--raw", "/readyz"], "").ok());
        kubernetes
    }

    /// Returns the output of kubectl, or its error.
    fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        self.kubectl_with(TOKEN, arguments, input)
    }

    /// The same with this token.
    fn kubectl_with(&self, token: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.args(["--server", &self.server, "--insecure-skip-tls-verify", "--token", token]).args(arguments);
        let output = run(command.current_dir(ROOT), input);
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        if output.status.success() { Ok(stdout) } else { Err(stderr) }
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str], input: &str) -> String {
        self.kubectl(arguments, input).unwrap_or_else(|complaint| panic!("{arguments:?}: {complaint}\n{input}"))
    }
}

/// Returns the pod of a Deployment or StatefulSet; `None` for other objects.
fn pod(workload: &Value) -> Option<String> {
    let mut pod = workload["spec"].get("template")?.clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    for member in ["name", "namespace"] {
        pod["metadata"][member] = workload["metadata"][member].clone();
    }
    for claim in workload["spec"]["volumeClaimTemplates"].as_sequence().into_iter().flatten() {
        let volume =
            format!("{{name: {0}, persistentVolumeClaim: {{claimName: {0}}}}}", claim["metadata"]["name"].as_str()?);
        pod["spec"]["volumes"].as_sequence_mut()?.push(from_str(&volume).unwrap());
    }
    Some(to_string(&pod).unwrap())
}

#[test]
#[ignore = "`make kubernetes` builds the API server, for minutes"]
fn a_kubernetes_api_takes_every_overlay_and_its_pods() {
    let kubernetes = Kubernetes::start();
    kubernetes.succeed(&["apply", "--server-side", "--filename", "target/kubernetes/definitions"], "");
    kubernetes.succeed(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"], "");

    // Production as in the guide, from new secrets.
    let guide = tempfile::tempdir().unwrap();
    fs::create_dir_all(guide.path().join("deploy/secrets")).unwrap();
    fs::copy(format!("{ROOT}/deploy/secrets/create"), guide.path().join("deploy/secrets/create")).unwrap();
    symlink(format!("{ROOT}/deploy/kubernetes"), guide.path().join("deploy/kubernetes")).unwrap();
    let kubectl =
        format!("exec kubectl --server {} --insecure-skip-tls-verify --token {TOKEN} \"$@\"", kubernetes.server);
    let kubectl = [("kubectl", kubectl)];
    run_documented("**Production**", guide.path(), &kubectl);

    // Production with every optional component.
    let directory = tempfile::tempdir_in(format!("{ROOT}/target")).unwrap();
    let complete = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: mayfly\n\
                    resources: [../../deploy/kubernetes/overlays/production, gateway.yaml]\n\
                    components: [../../deploy/kubernetes/components/collector]\n";
    fs::write(directory.path().join("kustomization.yaml"), complete).unwrap();
    let gateway = format!("{ROOT}/deploy/kubernetes/overlays/production/gateway.yaml");
    fs::copy(gateway, directory.path().join("gateway.yaml")).unwrap();

    let overlays = ["deploy/kubernetes/overlays/development", directory.path().to_str().unwrap()];
    for (overlay, pods) in overlays.into_iter().zip([2, 1]) {
        let rendered = kubernetes.succeed(&["kustomize", overlay], "");
        kubernetes.succeed(&["apply", "--filename", "-"], &rendered);
        let objects: Vec<Value> = rendered.split("\n---\n").map(|object| from_str(object).unwrap()).collect();
        let namespace = objects[0]["metadata"]["name"].as_str().unwrap();
        // The objects that controllers would create in each namespace.
        kubernetes.succeed(&["--namespace", namespace, "create", "serviceaccount", "default"], "");
        let made: Vec<_> = objects.iter().filter_map(pod).collect();
        assert_eq!(made.len(), pods, "{overlay}");
        for pod in made {
            // The namespace enforces its pod security level.
            let careless = pod.replace("runAsNonRoot: true", "runAsNonRoot: false");
            let refusal = kubernetes.kubectl(&["create", "--filename", "-"], &careless).unwrap_err();
            assert!(refusal.contains("violates PodSecurity"), "{refusal}");
            kubernetes.succeed(&["create", "--filename", "-"], &pod);
        }
    }

    // The guide's way to rotate the keys of the Secret.
    let data = ["--namespace", "mayfly", "get", "secret", "mayfly", "--output", "jsonpath={.data}"];
    let before = kubernetes.succeed(&data, "");
    run_documented("**In Kubernetes.**", guide.path(), &kubectl);
    let after = kubernetes.succeed(&data, "");
    assert!(after.len() > before.len() && after.matches(':').count() == 3, "{before} {after}");

    for example in ["gateway-api", "ingress-nginx"] {
        let file = format!("deploy/examples/kubernetes/{example}.yaml");
        kubernetes.succeed(&["apply", "--filename", &file], "");
    }
}

#[test]
#[ignore = "`make kubernetes` builds the API server, for minutes"]
fn kubectl_takes_a_token_until_it_is_revoked() {
    let service = Service::start(Backend::Redis);
    let admin = service.admin();
    admin.add_user("kubernetes", "introspector");
    admin.add_user("alice", "user");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // The webhook is another replica, with TLS.
    let authority = Authority::new();
    let identity = authority.identify("127.0.0.1");
    identity.write_certificate(path("tls.crt"));
    identity.write_key(path("tls.key"));
    fs::write(path("ca.crt"), authority.pem()).unwrap();
    let replica = Service::launch(service.redis.as_ref().map(RedisServer::url).as_deref(), |command| {
        command.env("MAYFLY_TLS_CERT", path("tls.crt")).env("MAYFLY_TLS_KEY", path("tls.key"));
        command.env("MAYFLY_JWT_KEYS_FILE", &service.keys_file);
    });
    let webhook = path("mayfly.yaml");
    let example = fs::read_to_string(format!("{ROOT}/deploy/examples/kubernetes/token-review.yaml")).unwrap();
    let example = example
        .replace("mayfly.example:25441", replica.address())
        .replace("/etc/kubernetes/mayfly-ca.crt", path("ca.crt").to_str().unwrap())
        .replace("change me", "secret");
    fs::write(&webhook, example).unwrap();
    let kubernetes = Kubernetes::start_with(&[
        format!("--authentication-token-webhook-config-file={}", webhook.display()),
        "--authentication-token-webhook-version=v1".into(),
        "--authentication-token-webhook-cache-ttl=0s".into(),
    ]);
    kubernetes.succeed(&["create", "clusterrole", "reader", "--verb=list", "--resource=configmaps"], "");
    kubernetes.succeed(&["create", "clusterrolebinding", "alice", "--clusterrole=reader", "--user=alice"], "");

    let alice = service.client().with_basic("alice", "secret");
    let issue = |audience: &str| {
        let body = json!({
            "jwt_token_description": "kubectl", "jwt_token_life": "1h", "jwt_token_scopes": ["deploy"],
            "jwt_token_audiences": [audience],
        });
        let answer = alice.post("/api/v1alpha/token", &body).send().json();
        let field = |name: &str| answer[name].as_str().unwrap().to_owned();
        (field("jwt_token_id"), field("jwt_token"))
    };
    let (id, jwt) = issue("https://kubernetes.default.svc");
    let list = ["get", "configmaps", "--namespace", "default"];
    kubernetes.kubectl_with(&jwt, &list, "").unwrap();
    let identity = kubernetes.kubectl_with(&jwt, &["auth", "whoami", "--output", "yaml"], "").unwrap();
    assert!(
        identity.contains("username: alice") && identity.contains(&id) && identity.contains("deploy"),
        "{identity}"
    );
    // Allowed by RBAC, and no more.
    let refusal = kubernetes.kubectl_with(&jwt, &["get", "secrets"], "").unwrap_err();
    assert!(refusal.contains("Forbidden") && refusal.contains("alice"), "{refusal}");
    let (_, other) = issue("https://elsewhere.example");
    assert!(kubernetes.kubectl_with(&other, &list, "").unwrap_err().contains("Unauthorized"));

    let revoked = Instant::now();
    assert_eq!(alice.delete(&format!("/api/v1alpha/token/{id}")).send().status, 200);
    eventually("the token is refused", || kubernetes.kubectl_with(&jwt, &list, "").err());
    // kube-apiserver has a cache of its own in front of all webhooks, for 10 s (`TokenSuccessCacheTTL`).
    println!("refused {:?} after the revocation was sent", revoked.elapsed());
}
