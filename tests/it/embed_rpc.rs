//! Embed and Tokenize over the network: responses and validation errors.

use assay::proto::{
    EmbedOptions, EmbedRequest, EmbedResponse, Embedding, Encoding, InputType, TokenizeRequest, Truncation,
    embedding_service_client::EmbeddingServiceClient,
};
use half::f16;
use tonic::{Code, Status, codec::CompressionEncoding, transport::Channel};

use crate::support::{
    app::{SMALL, TestApp, details, item, largest_difference, length, request, request_with, run, vectors},
    goldens::texts,
};

pub type Client = EmbeddingServiceClient<Channel>;

pub async fn embed(client: &mut Client, request: EmbedRequest) -> EmbedResponse {
    client.embed(request).await.expect("vectors").into_inner()
}

pub async fn refused(client: &mut Client, request: EmbedRequest) -> Status {
    client.embed(request).await.expect_err("a refusal")
}

async fn one(client: &mut Client, input: &str, options: EmbedOptions) -> Embedding {
    embed(client, request_with([input], options)).await.embeddings.remove(0)
}

fn long_text(words: usize) -> String {
    "word ".repeat(words)
}

#[test]
fn embeddings_are_in_input_order_with_token_counts() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let response = embed(&mut client, request(["one", "two words", "one"])).await;
        let model = app.info().await.model.expect("it is loaded");
        let vectors = vectors(&response);
        assert!(vectors.iter().all(|vector| vector.len() == 128 && (length(vector) - 1.0).abs() < 1e-5));
        assert_eq!((response.dimensions, model.dimensions), (128, 128));
        assert_eq!((&response.model, &response.revision), (&model.id, &model.revision));
        assert!(largest_difference(vectors[0], vectors[2]) < 1e-6);
        assert!(largest_difference(vectors[0], vectors[1]) > 1e-2);
        let tokens: Vec<u32> = response.embeddings.iter().map(|e| e.token_count).collect();
        assert!(tokens[0] == tokens[2] && tokens[1] > tokens[0] && tokens[0] >= 3, "{tokens:?}");
        assert_eq!(response.total_tokens, tokens.iter().map(|&n| u64::from(n)).sum::<u64>());
        assert!(response.embeddings.iter().all(|embedding| !embedding.truncated));
        let timings = response.timings.expect("timings");
        assert!(timings.tokenize.is_some() && timings.queue.is_some() && timings.compute.is_some());
    });
}

#[test]
fn reduced_dimensions_are_scaled_after_the_cut() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let raw = EmbedOptions { normalize: Some(false), ..EmbedOptions::default() };
        let whole = one(&mut client, "a text", raw.clone()).await.values;
        assert!((length(&whole) - 1.0).abs() > 1e-3, "{}", length(&whole));
        let cut = one(&mut client, "a text", EmbedOptions { dimensions: Some(32), ..raw }).await.values;
        assert!(largest_difference(&cut, &whole[..32]) < 1e-5);
        let options = EmbedOptions { dimensions: Some(32), ..EmbedOptions::default() };
        let scaled = one(&mut client, "a text", options).await.values;
        let expected: Vec<f32> = cut.iter().map(|x| x / length(&cut)).collect();
        assert!(largest_difference(&scaled, &expected) < 1e-5);
    });
}

#[test]
fn every_encoding_decodes_to_the_same_values() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let values = one(&mut client, "a text", EmbedOptions::default()).await.values;
        let mut encoded = async |encoding: Encoding| {
            let options = EmbedOptions { encoding: encoding as i32, ..EmbedOptions::default() };
            one(&mut client, "a text", options).await
        };
        assert_eq!(encoded(Encoding::Float32Values).await.values, values);

        let f32s = encoded(Encoding::Float32Bytes).await;
        let decoded: Vec<f32> = f32s.raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        assert!(f32s.values.is_empty() && largest_difference(&decoded, &values) < 1e-6);

        let f16s = encoded(Encoding::Float16Bytes).await;
        let decoded: Vec<f32> =
            f16s.raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect();
        assert!(largest_difference(&decoded, &values) < 1e-3);

        let int8s = encoded(Encoding::Int8Bytes).await;
        let decoded: Vec<f32> = int8s.raw.iter().map(|&b| f32::from(b as i8) * int8s.scale).collect();
        assert!(largest_difference(&decoded, &values) <= int8s.scale / 2.0 + 1e-6);

        let bits = encoded(Encoding::BinaryBytes).await.raw;
        let decoded: Vec<bool> = (0..values.len()).map(|i| bits[i / 8] >> (7 - i % 8) & 1 == 1).collect();
        assert_eq!(decoded, values.iter().map(|&x| x > 0.0).collect::<Vec<_>>());
    });
}

#[test]
fn a_prompt_by_role_or_name_is_prepended() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        for (prompt, input_type, name) in [
            ("query: ", InputType::Query, "query"),
            ("passage: ", InputType::Document, "passage"),
            ("", InputType::Unspecified, ""),
        ] {
            let written = one(&mut client, &format!("{prompt}a text"), EmbedOptions::default()).await;
            let by_role = EmbedOptions { input_type: input_type as i32, ..EmbedOptions::default() };
            let by_name = EmbedOptions { prompt_name: name.into(), ..EmbedOptions::default() };
            for options in [by_role, by_name] {
                let embedding = one(&mut client, "a text", options).await;
                assert_eq!(embedding.token_count, written.token_count);
                assert!(largest_difference(&embedding.values, &written.values) < 1e-5, "{prompt}");
            }
        }
    });
}

#[test]
fn truncation_removes_the_selected_side_and_is_reported() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let max_tokens = app.info().await.model.expect("it is loaded").max_tokens;
        let mut cut = async |truncation: Truncation, text: String| {
            let options = EmbedOptions { truncation: truncation as i32, ..EmbedOptions::default() };
            let embedding = one(&mut client, &text, options).await;
            assert_eq!((embedding.token_count, embedding.truncated), (max_tokens, true));
            embedding.values
        };
        let long = long_text(2000);
        let end = cut(Truncation::End, format!("{long} first")).await;
        assert!(largest_difference(&end, &cut(Truncation::End, format!("{long} other")).await) < 1e-5);
        let start = cut(Truncation::Start, format!("first {long} end")).await;
        assert!(
            largest_difference(&start, &cut(Truncation::Start, format!("other {long} end")).await) < 1e-5
        );
        assert!(largest_difference(&start, &end) > 1e-4);
        for truncation in [Truncation::End, Truncation::Start, Truncation::None] {
            let options = EmbedOptions { truncation: truncation as i32, ..EmbedOptions::default() };
            assert!(!one(&mut client, "short", options).await.truncated);
        }
    });
}

#[test]
fn a_too_long_input_error_has_tokens_and_limit() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let max_tokens = app.info().await.model.expect("it is loaded").max_tokens;
        let long = long_text(2000);
        let counted =
            client.tokenize(TokenizeRequest { inputs: vec![long.clone()], ..Default::default() }).await;
        let tokens = counted.expect("tokens").get_ref().results[0].tokens.len();
        for truncation in [Truncation::Unspecified, Truncation::None] {
            let options = EmbedOptions { truncation: truncation as i32, ..EmbedOptions::default() };
            let inputs = ["fine".to_owned(), long.clone(), "fine".to_owned(), long.clone()];
            let status = refused(&mut client, request_with(inputs, options)).await;
            let details = details(&status);
            assert_eq!(
                (status.code(), &details.fields[..]),
                (Code::InvalidArgument, &["inputs[1]", "inputs[3]"].map(String::from)[..])
            );
            for description in details.descriptions {
                assert!(description.contains(&tokens.to_string()), "{description}");
                assert!(description.contains(&max_tokens.to_string()), "{description}");
                assert!(!description.contains("word"), "{description}");
            }
        }
    });
}

#[test]
fn all_validation_errors_are_reported_at_once() {
    let app = TestApp::serving_with(SMALL, |settings| {
        settings.rpc.limits.inputs = 4;
        settings.rpc.limits.input_bytes = 100;
    });
    run(async {
        let mut client = app.client().await;
        let options = EmbedOptions {
            input_type: 42,
            truncation: 77,
            dimensions: Some(129),
            encoding: 99,
            prompt_name: String::new(),
            normalize: None,
        };
        let inputs = ["fine", "", "fine", &"x".repeat(101), "one too many"];
        let status = refused(&mut client, request_with(inputs, options)).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        let mut fields = details(&status).fields;
        fields.sort();
        let expected = [
            "inputs",
            "inputs[1]",
            "inputs[3]",
            "options.dimensions",
            "options.encoding",
            "options.input_type",
            "options.truncation",
        ];
        assert_eq!(fields, expected);
        for (request, field) in [
            (request::<&str>([]), "inputs"),
            (
                request_with(["x"], EmbedOptions { dimensions: Some(0), ..Default::default() }),
                "options.dimensions",
            ),
            (
                request_with(["x"], EmbedOptions { prompt_name: "no".into(), ..Default::default() }),
                "options.prompt_name",
            ),
        ] {
            let status = refused(&mut client, request).await;
            assert_eq!(
                (status.code(), details(&status).fields),
                (Code::InvalidArgument, vec![field.to_owned()])
            );
        }
    });
}

#[test]
fn an_embedding_is_the_same_alone_and_in_any_batch() {
    let app = TestApp::serving_with(SMALL, |settings| settings.embed.threads = 2);
    run(async {
        let mut client = app.client().await;
        let end = EmbedOptions { truncation: Truncation::End as i32, ..EmbedOptions::default() };
        let texts: Vec<String> = texts().into_iter().map(|text| text.text).collect();
        let together = embed(&mut client, request_with(texts.clone(), end.clone())).await;
        for (text, together) in texts.iter().zip(&together.embeddings) {
            let alone = one(&mut client, text, end.clone()).await;
            assert_eq!(alone.token_count, together.token_count);
            assert!(largest_difference(&alone.values, &together.values) < 1e-5, "{text:?}");
        }
    });
}

#[test]
fn a_huge_batch_of_all_lengths_is_complete_and_in_order() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let text = |index: usize| long_text(1 + index * 7 % 100);
        let end = EmbedOptions { truncation: Truncation::End as i32, ..EmbedOptions::default() };
        let response = embed(&mut client, request_with((0..512).map(text), end.clone())).await;
        assert_eq!(response.embeddings.len(), 512);
        for index in (0..512).step_by(37) {
            let alone = one(&mut client, &text(index), end.clone()).await;
            assert_eq!(alone.token_count, response.embeddings[index].token_count);
            assert!(largest_difference(&alone.values, &response.embeddings[index].values) < 1e-5, "{index}");
        }
    });
}

#[test]
fn compressed_requests_are_accepted() {
    let app = TestApp::serving(SMALL);
    run(async {
        let plain = embed(&mut app.client().await, request(["a text"])).await;
        for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
            let mut client = app.client().await.send_compressed(encoding);
            let response = embed(&mut client, request(["a text"])).await;
            assert!(largest_difference(vectors(&response)[0], vectors(&plain)[0]) < 1e-6);
        }
    });
}

fn small_messages() -> TestApp {
    TestApp::serving_with(SMALL, |settings| {
        settings.rpc.limits.message_bytes = 64 << 10;
        settings.rpc.limits.input_bytes = 32 << 10;
    })
}

fn check_too_large(status: &Status) {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert_eq!(details(status).fields, ["message"]);
}

#[test]
fn a_too_large_message_is_an_invalid_argument() {
    let app = small_messages();
    run(async {
        let mut client = app.client().await;
        check_too_large(&refused(&mut client, request(["x".repeat(100 << 10)])).await);
        embed(&mut client, request(["fine"])).await;

        let items = [item("a", "fine"), item("b", "x".repeat(100 << 10))];
        let mut answers =
            client.embed_stream(tokio_stream::iter(items)).await.expect("a stream").into_inner();
        let end = loop {
            match answers.message().await {
                Ok(Some(answer)) => assert_eq!(answer.id, "a"),
                Ok(None) => panic!("it ended as if all was well"),
                Err(status) => break status,
            }
        };
        check_too_large(&end);
    });
}

#[test]
fn a_too_large_decompressed_message_is_an_invalid_argument() {
    let app = small_messages();
    run(async {
        for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
            let mut client = app.client().await.send_compressed(encoding);
            check_too_large(&refused(&mut client, request(["x".repeat(8 << 20)])).await);
        }
    });
}

#[test]
fn tokens_have_the_byte_offsets_that_they_cover() {
    let app = TestApp::serving(SMALL);
    run(async {
        let mut client = app.client().await;
        let text = "Grüße aus Köln, 你好";
        let long = long_text(2000);
        let request = TokenizeRequest {
            inputs: vec![text.to_owned(), long],
            input_type: InputType::Query as i32,
            prompt_name: String::new(),
        };
        let response = client.tokenize(request).await.expect("tokens").into_inner();
        let tokens = &response.results[0].tokens;
        let special: Vec<bool> = tokens.iter().map(|token| token.special).collect();
        assert!(special[0] && special[special.len() - 1] && !special[1..special.len() - 1].contains(&true));
        let mut covered = vec![false; text.len()];
        for token in tokens {
            let bytes = token.start as usize..token.end as usize;
            assert!(text.get(bytes.clone()).is_some(), "{token:?} cuts a character");
            assert!(!token.special || bytes.is_empty());
            covered[bytes].fill(true);
        }
        let bare: Vec<char> = text.char_indices().filter(|(at, _)| !covered[*at]).map(|(_, c)| c).collect();
        assert!(bare.iter().all(|c| c.is_whitespace()), "{bare:?}");
        assert_eq!(response.results.iter().map(|r| r.exceeds_limit).collect::<Vec<_>>(), [false, true]);
        let embedded = one(
            &mut client,
            text,
            EmbedOptions { input_type: InputType::Query as i32, ..Default::default() },
        );
        assert_eq!(embedded.await.token_count as usize, tokens.len());
        assert_eq!(response.max_tokens, app.info().await.model.expect("it is loaded").max_tokens);
    });
}
