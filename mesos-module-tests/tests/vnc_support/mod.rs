//! A simulated VNC API server and a plain client, for tests of its responses.

// Each test binary uses only a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]

use contrail_mesos_sim::vnc::{Handle, Options, Server};
use serde_json::{Value, json};

/// A server and its client.
pub struct Api {
    /// The server.
    pub server: Handle,
    /// The client.
    pub client: reqwest::Client,
    /// The token that the client sends.
    pub token: Option<String>,
}

impl Api {
    pub async fn new(options: Options) -> Self {
        let (_, server) = Server::start(options).await.unwrap();
        let client = reqwest::Client::builder()
            .user_agent("test")
            .build()
            .unwrap();
        Self {
            server,
            client,
            token: None,
        }
    }

    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        self.try_request(method, path, body).await.unwrap()
    }

    pub async fn try_request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> reqwest::Result<(u16, String)> {
        let url = format!("{}{path}", self.server.url());
        let mut request = self.client.request(method.parse().unwrap(), url);
        if let Some(token) = &self.token {
            request = request.header("x-auth-token", token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, text) = self.request("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Creates an object, and returns its UUID, or the status and body of the refusal.
    pub async fn create(&self, kind: &str, body: Value) -> Result<String, (u16, String)> {
        let path = format!("/{kind}s");
        let (status, text) = self
            .request("POST", &path, Some(&json!({ kind: body })))
            .await;
        if status != 200 {
            return Err((status, text));
        }
        let created: Value = serde_json::from_str(&text).unwrap();
        Ok(created[kind]["uuid"].as_str().unwrap().to_owned())
    }

    pub async fn update(&self, kind: &str, uuid: &str, body: Value) -> (u16, String) {
        self.request(
            "PUT",
            &format!("/{kind}/{uuid}"),
            Some(&json!({ kind: body })),
        )
        .await
    }

    pub async fn delete(&self, kind: &str, uuid: &str) -> (u16, String) {
        self.request("DELETE", &format!("/{kind}/{uuid}"), None)
            .await
    }

    /// A network with these subnets.
    pub async fn network(&self, name: &str, subnets: Value) -> Result<String, (u16, String)> {
        self.create(
            "virtual-network",
            json!({
                "fq_name": ["default-domain", "default-project", name], "parent_type": "project",
                "network_ipam_refs": [{
                    "to": ["default-domain", "default-project", "default-network-ipam"],
                    "attr": {"ipam_subnets": subnets}
                }]
            }),
        )
        .await
    }

    /// Creates an instance-ip, and returns its address.
    pub async fn address(
        &self,
        name: &str,
        network: &str,
        with: Value,
    ) -> Result<String, (u16, String)> {
        let mut body = json!({
            "fq_name": [name],
            "virtual_network_refs": [{"to": ["default-domain", "default-project", network]}]
        });
        body.as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        let uuid = self.create("instance-ip", body).await?;
        let read = self.get(&format!("/instance-ip/{uuid}")).await;
        Ok(read["instance-ip"]["instance_ip_address"]
            .as_str()
            .unwrap()
            .to_owned())
    }
}

/// A subnet in the form of request bodies.
pub fn subnet(prefix: &str, length: u8) -> Value {
    json!({"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}})
}
