"""Continues prompts with HF PEFT and transformers' `generate`."""

import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from race.clock import peak_memory
from race.task import Task
from race.trainer_contest import ATTENTION


def main() -> None:
    """Continue ``prompts`` by ``new_tokens`` with the adapter of ``contest``, ``repeats`` times after a first.

    ``one_by_one`` says whether each prompt is a batch of its own.
    """
    task = Task.from_command_line()
    asked = task.arguments
    torch.set_num_threads(task.work.settings.threads)
    attention = ATTENTION.get(asked["manner"])
    options = {} if attention is None else {"attn_implementation": attention}
    base = AutoModelForCausalLM.from_pretrained(task.work.model, dtype=asked["dtype"], **options)
    tokenizer = AutoTokenizer.from_pretrained(task.work.model, padding_side="left")
    model = PeftModel.from_pretrained(base, task.work.folder / asked["contest"]).eval()
    if asked["manner"] != "default" and not model.peft_config["default"].is_prompt_learning:
        model = model.merge_and_unload()
    batches = [[prompt] for prompt in asked["prompts"]] if asked["one_by_one"] else [asked["prompts"]]
    seconds, texts, tokens = [], [], []
    for _ in range(int(asked["repeats"]) + 1):
        began = time.perf_counter()
        texts, tokens = [], []
        for prompts in batches:
            inputs = tokenizer(prompts, return_tensors="pt", padding=True)
            with torch.inference_mode():
                whole = model.generate(**inputs, max_new_tokens=asked["new_tokens"], do_sample=False)
            written = whole[:, inputs["input_ids"].shape[1] :]
            texts += tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            tokens += [written.shape[1]] * len(written)
        seconds.append(time.perf_counter() - began)
    task.answer({"seconds": seconds[1:], "texts": texts, "tokens": tokens, "peak": peak_memory()})


if __name__ == "__main__":
    main()
