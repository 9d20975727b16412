"""The enumerations of HF PEFT; their members are texts, so that scripts may use either."""

from enum import StrEnum


class TaskType(StrEnum):
    """What the base model is for."""

    CAUSAL_LM = "CAUSAL_LM"
    FEATURE_EXTRACTION = "FEATURE_EXTRACTION"
    QUESTION_ANS = "QUESTION_ANS"
    SEQ_2_SEQ_LM = "SEQ_2_SEQ_LM"
    SEQ_CLS = "SEQ_CLS"
    TOKEN_CLS = "TOKEN_CLS"  # noqa: S105 - no password


class PeftType(StrEnum):
    """The methods, as PEFT's files name them."""

    ADAPTION_PROMPT = "ADAPTION_PROMPT"
    IA3 = "IA3"
    LORA = "LORA"
    P_TUNING = "P_TUNING"
    PREFIX_TUNING = "PREFIX_TUNING"
    PROMPT_TUNING = "PROMPT_TUNING"


class PromptTuningInit(StrEnum):
    """How the virtual tokens of prompt tuning start."""

    TEXT = "TEXT"
    SAMPLE_VOCAB = "SAMPLE_VOCAB"
    RANDOM = "RANDOM"


class PromptEncoderReparameterizationType(StrEnum):
    """The network that P-tuning trains."""

    MLP = "MLP"
    LSTM = "LSTM"
