//! Every family through the whole engine: scored, asked, trained, promoted.

use super::*;

pub(super) const FAMILIES: [&str; 6] =
    ["smolvlm-tiny", "idefics3-odd", "qwen2_5-tiny", "qwen2_5-odd", "qwen3-tiny", "qwen3-odd"];

pub(super) async fn engine_of(family: &str) -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family);
    Engine::start(config(&folder)).await.unwrap()
}

/// A question about two pictures of different shapes.
pub(super) fn about_two() -> ScoreItem {
    let wide = image::RgbImage::from_fn(60, 24, |x, y| image::Rgb([(x * 4) as u8, (y * 9) as u8, 90]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    wide.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    let one = ask(3, "which is larger?", &["the first", "the second", "both"]);
    ScoreItem { images: vec![one.images[0].clone(), bytes.into_inner().into()], ..one }
}

#[tokio::test]
async fn questions_about_several_images_are_scored_beside_others_as_alone() {
    for family in FAMILIES {
        let engine = engine_of(family).await;
        let items = vec![about_two(), ask(9, "how many?", &["1", "2"]), ask(7, "what is it?", &[])];
        let together = engine.score(None, items.clone()).await.unwrap().scores;
        for (item, beside) in items.into_iter().zip(together) {
            let alone = engine.score(None, vec![item]).await.unwrap().scores.remove(0).unwrap();
            assert_close(&beside.unwrap_or_else(|e| panic!("{family}: {e}")), &alone, 2e-5);
            assert_eq!(alone.embedding.len(), engine.info().embedding_dim);
        }
    }
}

#[tokio::test]
async fn an_answer_tells_where_it_looks_in_each_image() {
    for family in FAMILIES {
        let engine = engine_of(family).await;
        let ScoreItem { images, question, choices } = about_two();
        let item = PredictItem { images, question, choices, reasoning: false, attention: true };
        let said = engine.predict(None, item).await.unwrap().unwrap();
        assert_eq!(said.attention.len(), 2, "{family}");
        for map in &said.attention {
            assert_eq!(map.weights.len(), map.rows * map.columns, "{family}");
            assert!((map.weights.iter().sum::<f32>() - 1.0).abs() < 1e-4, "{family}: {map:?}");
            assert!((0.0..=1.0).contains(&map.mass) && map.mass > 0.0, "{family}: {map:?}");
        }
        let all: f32 = said.attention.iter().map(|map| map.mass).sum();
        assert!(all < 1.0, "{family}: some attention is left for the words");
    }
}

#[tokio::test]
async fn adapters_of_every_family_learn_and_serve() {
    for family in FAMILIES {
        let engine = engine_of(family).await;
        let (fork, _) = engine.begin_training(spec(LORA)).await.unwrap();
        let ScoreItem { images, question, .. } = about_two();
        let two = TrainItem {
            images,
            question,
            answer: "both".into(),
            reasoning: vec!["equal".into()],
            ..TrainItem::default()
        };
        let lessons = vec![two, lesson(5, "how many?", "1", &[])];
        let first = engine.train_step(fork, lessons.clone()).await.unwrap();
        let mut last = first.clone();
        for _ in 0..40 {
            last = engine.train_step(fork, lessons.clone()).await.unwrap();
        }
        assert!(last.loss < 0.5 * first.loss, "{family}: {} -> {}", first.loss, last.loss);
        let trained = version();
        engine.promote(Source::Fork(fork), trained).await.unwrap();
        let own = engine.score(Some(trained), vec![about_two()]).await.unwrap().scores.remove(0).unwrap();
        assert_eq!(own.answer, "both", "{family}: {own:?}");
    }
}
