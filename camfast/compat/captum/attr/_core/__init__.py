"""At the places where captum has them: one file a method."""
