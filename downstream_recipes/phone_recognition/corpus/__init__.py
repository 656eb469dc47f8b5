"""This package stands in for `s3prl.downstream.ctc.corpus`, which pip's s3prl lacks.

`libriphone` is the data set of it that phone recognition asks for, `librispeech` that of ASR, and
`common_voice` that of out-of-domain ASR.
"""
