//! Embeds two texts in this process, without a server, and prints how similar they are.
//!
//! ```text
//! $ cargo run --release --example embed_in_process -- models/all-MiniLM-L6-v2
//! all-MiniLM-L6-v2: 384 dimensions, avx512-bf16
//! tokens: 9 and 10
//! cosine: 0.682
//! ```

#![expect(clippy::disallowed_methods, reason = "`tokio::main` blocks on its future")]
#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::{error::Error, sync::Arc, time::Duration};

use assay::{
    deadline::Deadline,
    embed::{EmbedSettings, Embedder, Engine, InputOptions, Vector, VectorEncoding, VectorOptions},
    model::{ModelSettings, Truncation, source::SourceSettings},
};
use prometheus_client::registry::Registry;

/// Time for the model to load, and then for each call.
const TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("usage: embed_in_process MODEL_DIRECTORY")?;
    // The embedder registers its metrics here; a server would expose them.
    let mut registry = Registry::default();
    let embedder = Embedder::start(settings(&directory), &mut registry)?;

    // The model loads in the background. Until it is ready, `Embedder::ready` returns an error at once.
    let engine = embedder.wait_until_ready(Deadline::after(TIMEOUT)).await?;
    let model = engine.model();
    println!("{}: {} dimensions, {}", model.id, model.dimensions, model.kernel);

    let texts = ["A red fox crosses the road.", "A fox is walking over the street."];
    let texts = texts.map(str::to_owned).to_vec();
    let embedded = engine.embed(texts, options(engine), Deadline::after(TIMEOUT)).await?;
    let [first, second] = &embedded.inputs[..] else { return Err("two inputs give two vectors".into()) };
    println!("tokens: {} and {}", first.tokens, second.tokens);
    println!("cosine: {:.3}", cosine(&first.vector, &second.vector).ok_or("the vectors hold no numbers")?);

    // Joins the threads, which blocks: off the runtime's own threads.
    tokio::task::spawn_blocking(move || embedder.stop()).await?;
    Ok(())
}

fn settings(directory: &str) -> EmbedSettings {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    EmbedSettings {
        // A directory needs no cache and no network.
        source: SourceSettings { offline: true, ..SourceSettings::new(directory, "unused") },
        model: ModelSettings::default(),
        threads,
        text_threads: 1,
        batch_tokens: 2048,
        queue_tokens: 64 << 10,
        cache_bytes: 0,
        retry_pause: Duration::from_secs(1),
    }
}

/// No prompt, all dimensions, and the normalization that the model asks for.
fn options(engine: &Engine) -> InputOptions {
    let model = engine.model();
    InputOptions {
        prompt: Arc::from(""),
        truncation: Truncation::End,
        vector: VectorOptions {
            dimensions: model.dimensions,
            normalize: model.normalizes,
            encoding: VectorEncoding::Float32Values,
        },
    }
}

/// None where a vector is in an encoding other than `Float32Values`.
fn cosine(a: &Vector, b: &Vector) -> Option<f32> {
    let (Vector::Values(a), Vector::Values(b)) = (a, b) else { return None };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    Some(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt())
}
