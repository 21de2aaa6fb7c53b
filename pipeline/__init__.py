"""The dataset factory: from visual-counterfactual sources to published Minimal Visual Contrasts
(MVC).
"""
