"""Models of transformers from the same TOML files that Locus reads (benchmarks/configs/)."""
import tomllib


def build(config, weights="", experts="grouped_mm"):
    """`weights`: a folder of save_pretrained() to start from; else fresh ones, seed 1."""
    import torch
    import transformers

    with open(config, "rb") as file:
        settings = tomllib.load(file)
    sparse = settings["moe"]["num_experts"] > 0
    choice = {"experts_implementation": experts} if sparse else {}
    if weights:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            weights, dtype=torch.float32, **choice)
    else:
        torch.manual_seed(1)
        shape = olmoe(settings) if sparse else gpt2(settings)
        model = transformers.AutoModelForCausalLM.from_config(shape, **choice)
    return model, settings, {"torch": torch.__version__, "transformers": transformers.__version__}


def olmoe(settings):
    from transformers import OlmoeConfig

    model, moe = settings["model"], settings["moe"]
    shared = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
              "max_position_embeddings")
    return OlmoeConfig(
        **{key: model[key] for key in shared}, num_key_value_heads=model["num_attention_heads"],
        intermediate_size=moe["intermediate_size"], num_experts=moe["num_experts"],
        num_experts_per_tok=moe["router"]["top_k"],
        norm_topk_prob=moe["top_k"]["norm_topk_prob"], rms_norm_eps=1e-5, rope_theta=10000.0,
        bos_token_id=None, eos_token_id=None, pad_token_id=None)


def gpt2(settings):
    from transformers import GPT2Config

    model = settings["model"]
    return GPT2Config(
        vocab_size=model["vocab_size"], n_embd=model["hidden_size"],
        n_layer=model["num_hidden_layers"], n_head=model["num_attention_heads"],
        n_inner=model["intermediate_size"], n_positions=model["max_position_embeddings"],
        activation_function=model["hidden_act"], layer_norm_epsilon=1e-5,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=None, eos_token_id=None, pad_token_id=None)
