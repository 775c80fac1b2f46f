"""What every method and objective has to keep, as tests: `pytest --pyargs peftbench.contracts -k mine`.

They run over all that is registered, plug-ins included, and ship with the package; they need pytest.
"""
