def test_tiny(tiny_corpus):
    from ptjax.data.pipeline import Data, Pipeline
    for s in ('train','validation'):
        p=Pipeline(Data(corpus=tiny_corpus,length=32), s); print(p.metadata, p.rows)
